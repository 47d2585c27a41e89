"""``write_c_array``: what a compiler makes of it is the file, byte by byte."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tflite_export import write_c_array

PROGRAM = """
#include "{header}"
#include <stdint.h>
#include <stdio.h>
int main(void) {{
  fwrite({name}, 1, {name}_len, stdout);
  return (int)((uintptr_t){name} % 16);
}}
"""


@pytest.mark.parametrize("compiler", [["cc", "-std=c11"], ["c++", "-xc++", "-std=c++17"]])
def test_a_compiler_reads_the_file_from_it(tmp_path, monkeypatch, compiler):
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no {compiler[0]}")
    monkeypatch.chdir(tmp_path)
    data = b"\x1c\x00\x00\x00TFL3" + bytes(range(256)) + b"\xff"  # of any length
    Path("1 net-ä.int8.tflite").write_bytes(data)
    source, header = write_c_array("1 net-ä.int8.tflite")
    assert (source.name, header.name) == ("1 net-ä.int8.c", "1 net-ä.int8.h")
    main = PROGRAM.format(header=header, name="__1_net___int8_tflite")
    Path("main.c").write_text(main, encoding="utf-8")
    strict = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run([*compiler, *strict, "main.c", source, "-o", "main"], check=True)
    assert subprocess.run(["./main"], stdout=subprocess.PIPE, check=True).stdout == data


def test_what_is_no_file_of_tensorflow_lite_leaves_nothing(tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"no such thing")
    with pytest.raises(ValueError, match=r"m\.tflite: not a \.tflite file"):
        write_c_array(tmp_path / "m.tflite")
    assert [one.name for one in tmp_path.iterdir()] == ["m.tflite"]
