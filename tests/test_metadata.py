"""Metadata inside a file: what Android's readers find, and that the model stays what it is."""

import zipfile

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.schema_py_generated import Model
from keras import layers

from tflite_export import add_metadata, convert, count_macs, describe, read_metadata, verify
from tflite_export.file import metadata_schema_generated as schema

LABELS = ("black cat", "dog, brown", "Käfer")
FACTS = {"name": "animals", "description": "Tells animals apart.", "labels": LABELS}
MEAN, STD = (120.5, 110.0, 100.0), (60.0, 61.0, 62.5)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]
    )


@pytest.fixture(scope="module")
def plain(model, tmp_path_factory):
    return convert(model, tmp_path_factory.mktemp("metadata") / "plain.tflite")


@pytest.fixture
def path(plain, tmp_path):
    """A file that may be changed."""
    path = tmp_path / "m.tflite"
    path.write_bytes(plain.read_bytes())
    return path


def packed_metadata(path):
    """The metadata's own flatbuffer, found as readers find it: by the model's table of them."""
    model = Model.GetRootAs(path.read_bytes(), 0)
    (entry,) = (
        model.Metadata(index)
        for index in range(model.MetadataLength())
        if model.Metadata(index).Name() == b"TFLITE_METADATA"
    )
    return model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()


def test_what_is_written_is_read(path):
    assert read_metadata(path) is None
    add_metadata(path, **FACTS, mean=np.array(MEAN), std=np.array(STD))
    metadata = read_metadata(path)
    assert (metadata.name, metadata.description) == ("animals", "Tells animals apart.")
    assert (metadata.labels, metadata.mean, metadata.std) == (LABELS, MEAN, STD)
    assert metadata.license is None
    assert metadata.pixel_max is None
    assert describe(path).metadata == metadata


def test_the_tables_are_those_that_readers_expect(path):
    add_metadata(path, **FACTS, mean=MEAN, std=STD, pixel_max=255)
    packed = packed_metadata(path)
    assert schema.ModelMetadata.ModelMetadataBufferHasIdentifier(packed, 0)
    metadata = schema.ModelMetadata.GetRootAs(packed, 0)
    assert metadata.MinParserVersion() == b"1.0.0"
    assert metadata.SubgraphMetadataLength() == 1
    graph = metadata.SubgraphMetadata(0)
    assert (graph.InputTensorMetadataLength(), graph.OutputTensorMetadataLength()) == (1, 1)

    content = graph.InputTensorMetadata(0).Content()
    assert content.ContentPropertiesType() == schema.ContentProperties.ImageProperties
    image = schema.ImageProperties()
    image.Init(content.ContentProperties().Bytes, content.ContentProperties().Pos)
    assert image.ColorSpace() == schema.ColorSpaceType.RGB
    unit = graph.InputTensorMetadata(0).ProcessUnits(0)
    assert unit.OptionsType() == schema.ProcessUnitOptions.NormalizationOptions
    options = schema.NormalizationOptions()
    options.Init(unit.Options().Bytes, unit.Options().Pos)
    assert (*options.MeanAsNumpy(), *options.StdAsNumpy()) == (*MEAN, *STD)

    # The range of the input is that of normalised pixels.
    stats = graph.InputTensorMetadata(0).Stats()
    assert stats.MinAsNumpy() == pytest.approx(-np.array(MEAN) / STD)
    assert stats.MaxAsNumpy() == pytest.approx((255 - np.array(MEAN)) / STD)
    assert read_metadata(path).pixel_max == 255

    file = graph.OutputTensorMetadata(0).AssociatedFiles(0)
    assert file.Name() == b"labels.txt"
    assert file.Type() == schema.AssociatedFileType.TENSOR_AXIS_LABELS
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["labels.txt"]
        assert archive.read("labels.txt").decode() == "black cat\ndog, brown\nKäfer"


def test_the_model_stays_what_it_is(model, plain, path):
    add_metadata(path, **FACTS, mean=MEAN, std=STD)
    images = np.random.default_rng(0).random((20, 8, 8, 3), np.float32)
    assert count_macs(path) == count_macs(plain)
    assert verify(model, path, images) == verify(model, plain, images)
    before, after = (Interpreter(str(file)) for file in (plain, path))
    assert after.get_signature_list() == before.get_signature_list()
    assert describe(path).operators == describe(plain).operators
    names = [Model.GetRootAs(path.read_bytes(), 0).Metadata(i).Name() for i in range(3)]
    assert sorted(names) == [b"CONVERSION_METADATA", b"TFLITE_METADATA", b"min_runtime_version"]


def test_weights_begin_at_multiples_of_16(path):
    add_metadata(path, **FACTS)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    file = Model.GetRootAs(data, 0)
    start = data.__array_interface__["data"][0]
    buffers = [file.Buffers(index) for index in range(file.BuffersLength())]
    places = [
        buffer.DataAsNumpy().__array_interface__["data"][0] - start
        for buffer in buffers
        if buffer.DataLength()
    ]
    assert len(places) > 3
    assert [place % 16 for place in places] == [0] * len(places)


def test_metadata_are_replaced_and_the_same_make_the_same_file(path):
    add_metadata(path, name="other", labels=("a", "b", "c"), mean=[0], std=[255])
    assert read_metadata(path).mean == (0,)
    add_metadata(path, **FACTS)
    once = path.read_bytes()
    assert read_metadata(path).mean == ()
    add_metadata(path, **FACTS)
    assert path.read_bytes() == once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ("a", "b")}, "labels are 2, but the file has 3 classes"),
        ({"labels": ("a", "b\nc", "d")}, r"labels: 'b\\nc' is not one line"),
        ({"mean": (1, 2), "std": (1, 2)}, "the images have 3 channels"),
        ({"mean": (1,), "std": (0,)}, "std above 0"),
        ({"mean": (float("nan"),), "std": (1,)}, "must be finite"),
        ({"pixel_max": 255}, "pixel_max 255 needs mean and std"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(path, arguments, message):
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        add_metadata(path, **arguments)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["m.tflite"]


def test_only_classifiers_of_images_have_such_metadata(tmp_path):
    dense = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    path = convert(dense, tmp_path / "dense.tflite")
    with pytest.raises(ValueError, match=r"dense.tflite: takes \(1, 4\) and gives \(1, 3\)"):
        add_metadata(path, name="dense")
