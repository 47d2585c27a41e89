"""Writes a ``.tflite`` file as C source, for devices that have no file system."""

import os
import re
import tempfile
from pathlib import Path

from tflite_export.file import flatbuffer

_BYTES_A_LINE = 12  # as xxd -i

_HEADER = """\
#ifndef {guard}
#define {guard}
#ifdef __cplusplus
extern "C" {{
#endif
extern const unsigned char {name}[];
extern const unsigned int {name}_len;
#ifdef __cplusplus
}}
#endif
#endif
"""

_SOURCE = """\
#include "{header}"
#ifndef __cplusplus
#include <stdalign.h>
#endif
alignas(16) const unsigned char {name}[] = {{
{lines}
}};
const unsigned int {name}_len = {length};
"""


def write_c_array(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Writes a file as an array of C beside it, as ``xxd -i`` does, with a header.

    The array has the file's name, with an underscore for all that is no letter, digit or
    underscore of ASCII: that of ``model.int8.tflite`` is ``model_int8_tflite``, its number of bytes
    ``model_int8_tflite_len``. It lies at a multiple of 16 bytes, as TensorFlow Lite reads it. Both
    are C (from C11 on) as well as C++.

    Args:
        path: The ``.tflite`` file.

    Returns:
        The paths of the source and the header, the file's with ``.c`` and ``.h`` for ``.tflite``.
        Those that are there are replaced.

    Raises:
        ValueError: The file is not a ``.tflite`` file.
        OSError: They cannot be written.

    Example:
        >>> import keras
        >>> from tflite_export import convert
        >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Conv2D(2, 3)])
        >>> source, header = write_c_array(convert(model, "model.tflite"))
        >>> source.name, header.read_text().splitlines()[5]
        ('model.c', 'extern const unsigned char model_tflite[];')
    """
    path = Path(path)
    data = flatbuffer.read(path)
    name = re.sub(r"[^0-9A-Za-z_]", "_", path.name)
    if name[0].isdigit():
        name = f"__{name}"  # as xxd
    source, header = path.with_suffix(".c"), path.with_suffix(".h")
    starts = range(0, len(data), _BYTES_A_LINE)
    lines = (data[start : start + _BYTES_A_LINE] for start in starts)
    text = {
        header: _HEADER.format(guard=f"{name.upper()}_H", name=name),
        source: _SOURCE.format(
            header=header.name,
            name=name,
            lines=",\n".join(
                "    " + ", ".join(f"0x{byte:02x}" for byte in line) for line in lines
            ),
            length=len(data),
        ),
    }
    # Whole or not at all, as `convert` writes the file itself.
    with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
        for target, content in text.items():
            (Path(folder) / target.name).write_text(content, encoding="utf-8")
        for target in text:
            (Path(folder) / target.name).replace(target)
    return source, header
