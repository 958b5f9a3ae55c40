"""Folders, lists, prepared frames and tiles as sources of pairs, and pairs that do not match."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from dmphn_jax.data import SourceOptions, open_source
from dmphn_jax.data.base import PairSource
from dmphn_jax.data.record_views import NotViewableError, RecordViews
from dmphn_jax.data.tfds_source import CropsSource
from dmphn_jax.errors import UserError
from dmphn_jax.images import read_rgb, read_size
from tests.support import data_tree
from tfds_gopro.builders import Gopro, pair_config

TILE, STRIDE, CROP = 64, 32, 32


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small GoPro prepared as frames and tiles; returns (data_dir, tree, pairs)."""
    root = tmp_path_factory.mktemp("prepared")
    pairs = data_tree.gopro_tree(root / "GOPRO_Large", train=5, test=2)
    for config in (pair_config(), pair_config("crops", size=(TILE, TILE), stride=STRIDE)):
        Gopro(
            data_dir=root / "D",
            config=config,
            source=root / "GOPRO_Large",
            allow_partial=True,
            progress=False,
        ).download_and_prepare()
    return root / "D", root / "GOPRO_Large", pairs


def assert_same(source, pairs):
    assert isinstance(source, PairSource)
    assert list(source.names) == sorted(source.names)
    for index, name in enumerate(source.names):
        pair = source[index]
        assert pair.name == name
        assert pair.blurry.dtype == np.uint8
        np.testing.assert_array_equal(pair.blurry, pairs[name][0])
        np.testing.assert_array_equal(pair.sharp, pairs[name][1])
        assert source.shape(index) == pair.sharp.shape[:2]


def test_frames_tiles_and_tree_are_the_same_pairs(prepared):
    data_dir, tree, pairs = prepared
    for split, count in (("train", 5), ("test", 2)):
        sources = [
            open_source("gopro", split, SourceOptions(data_dir=data_dir)),
            open_source("gopro", split, SourceOptions(data_dir=data_dir, records="frames")),
            open_source(tree, split),
            open_source("folder", split, SourceOptions(data_dir=tree)),
            open_source(data_dir / "gopro/frames/1.0.0", split),
        ]
        assert isinstance(sources[0], CropsSource) == (split == "train")
        for source in sources:
            assert len(source) == count
            assert_same(source, pairs)


@pytest.mark.parametrize("views", [True, False])
def test_crops_from_tiles_are_windows_of_the_frame(prepared, views):
    data_dir, _, pairs = prepared
    source = open_source("gopro", options=SourceOptions(data_dir=data_dir, views=views))
    assert (source._views is not None) == views
    tops, lefts = source.positions(0, CROP)
    np.testing.assert_array_equal(tops, np.arange(data_tree.HEIGHT - CROP + 1))
    np.testing.assert_array_equal(lefts, np.arange(data_tree.WIDTH - CROP + 1))
    again = pickle.loads(pickle.dumps(source))
    for index, name in enumerate(source.names):
        for top, left in ((0, 0), (tops[-1], lefts[-1]), (7, 13), (23, 39), (40, 3)):
            for reader in (source, again):
                blurry, sharp = reader.crop(index, int(top), int(left), CROP)
                place = (slice(top, top + CROP), slice(left, left + CROP))
                np.testing.assert_array_equal(blurry, pairs[name][0][place])
                np.testing.assert_array_equal(sharp, pairs[name][1][place])
    with pytest.raises(UserError, match="does not fit in its tiles"):
        source.positions(0, TILE + 1)


def write_records(path, images, options):
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets.core import example_serializer

    tensor = tfds.features.Tensor(shape=(None, None, 3), dtype=np.uint8, encoding="bytes")
    features = tfds.features.FeaturesDict(
        {"blurry": tensor, "sharp": tensor, "frame": tfds.features.Text(), "top": np.int32}
    )
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    writer = ArrayRecordWriter(str(path), options)
    for number, (blurry, sharp) in enumerate(images):
        example = {"blurry": blurry, "sharp": sharp, "frame": f"{number:06d}", "top": number}
        writer.write(serializer.serialize_example(features.encode_example(example)))
    writer.close()


def test_views_agree_with_the_reader_across_blocks(tmp_path):
    """Images from bytes to several 64 KiB blocks, so that block borders fall everywhere."""
    rng = np.random.default_rng(0)
    sizes = [(1, 1), (3, 5), (150, 143), (148, 147), (200, 300), (1, 30000), (120, 182), (256, 170)]
    sizes += [tuple(rng.integers(1, 200, 2)) for _ in range(24)]
    images = [tuple(rng.integers(0, 256, (2, *size, 3), np.uint8)) for size in sizes]
    path = tmp_path / "x.array_record"
    write_records(path, images, "group_size:1,uncompressed")
    views = RecordViews(path, len(images))
    for number in rng.permutation(len(images)):
        for place, image in zip(views.pair(number), images[number], strict=True):
            height, width = image.shape[:2]
            assert (place.height, place.width) == (height, width)
            whole = np.empty_like(image)
            views.window(place, 0, 0, whole)
            np.testing.assert_array_equal(whole, image)
            for _ in range(4):
                top, left = rng.integers(0, height), rng.integers(0, width)
                out = np.empty(
                    (rng.integers(1, height - top + 1), rng.integers(1, width - left + 1), 3),
                    np.uint8,
                )
                views.window(place, int(top), int(left), out)
                expected = image[top : top + out.shape[0], left : left + out.shape[1]]
                np.testing.assert_array_equal(out, expected)
            with pytest.raises(IndexError):
                views.window(place, 0, 1, np.empty_like(image))


def test_views_refuse_what_they_cannot_read(tmp_path):
    image = np.zeros((40, 40, 3), np.uint8)
    path = tmp_path / "x.array_record"
    for options in ("group_size:1", "group_size:4,uncompressed"):
        write_records(path, [(image, image)] * 4, options)
        with pytest.raises(NotViewableError):
            RecordViews(path, 4)
    write_records(path, [(image, image)] * 4, "group_size:1,uncompressed")
    with pytest.raises(NotViewableError):
        RecordViews(path, 400)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(NotViewableError):
        RecordViews(path, 4)
    path.write_bytes(b"")
    with pytest.raises(NotViewableError):
        RecordViews(path, 4)


def test_not_prepared_says_how(tmp_path):
    with pytest.raises(UserError) as error:
        open_source("gopro", options=SourceOptions(data_dir=tmp_path))
    text = str(error.value)
    assert "python -m tfds_gopro.prepare gopro --source" in text
    assert "--config.data.source=synthetic" in text
    assert "\n" not in text
    # A folder that a killed run left is no dataset.
    (tmp_path / "gopro/frames/incomplete.1.0.0.abc").mkdir(parents=True)
    with pytest.raises(UserError, match="not prepared"):
        open_source("gopro", options=SourceOptions(data_dir=tmp_path))


def test_unknown_names_are_one_line(tmp_path):
    with pytest.raises(UserError, match="did you mean 'gopro'"):
        open_source("gopr")
    with pytest.raises(UserError, match="split 'validation' is not known: one of train, test"):
        open_source("gopro", "validation")
    with pytest.raises(UserError, match="no such folder"):
        open_source("folder", options=SourceOptions(data_dir=tmp_path / "none"))
    with pytest.raises(UserError, match="video_deblurring has one blurry side"):
        open_source("video_deblurring", options=SourceOptions(blur="blur_gamma"))


def test_prepared_set_that_lost_a_file(prepared, tmp_path):
    copy = tmp_path / "1.0.0"
    shutil.copytree(prepared[0] / "gopro/frames/1.0.0", copy)
    next(copy.glob("*train.array_record*")).unlink()
    with pytest.raises(UserError, match="files are gone"):
        open_source(copy)
    for name, content in (
        ("metadata.json", "{"),
        ("metadata.json", "[]"),
        ("dataset_info.json", '{"name": '),
    ):
        whole = (copy / name).read_text()
        (copy / name).write_text(content)
        with pytest.raises(UserError, match="prepare them again"):
            open_source(copy)
        (copy / name).write_text(whole)


def test_a_damaged_tile_is_named(prepared, tmp_path):
    copy = next((prepared[0] / "gopro").glob("crops*/1.0.0"))
    folder = tmp_path / copy.parent.name / "1.0.0"
    shutil.copytree(copy, folder)
    file = next(folder.glob("*train.array_record*"))
    data = bytearray(file.read_bytes())
    at = data.rindex(b"blurry/value")
    data[at : at + 2] = b"\xff\xfe"
    file.write_bytes(data)
    source = open_source(folder)
    with pytest.raises(UserError, match=r"train tile \d+ is damaged"):
        source[len(source) - 1]


SIDES = [("blurry", "sharp"), ("blur", "GT"), ("input", "target"), ("Blurry", "Sharp")]


@pytest.mark.parametrize("sides", SIDES)
def test_two_folders_pair_by_relative_path(tmp_path, sides):
    pairs = {}
    for name in ("a", "b/c", "b/d/e"):
        images = data_tree.frame(len(name)), data_tree.frame(len(name) + 50)
        # The sharp side may be in another format.
        data_tree.save(tmp_path / sides[0] / f"{name}.png", images[0])
        data_tree.save(tmp_path / sides[1] / f"{name}.bmp", images[1])
        pairs[name] = images
    (tmp_path / sides[0] / "Thumbs.db").write_text("no image")
    data_tree.save(tmp_path / sides[0] / ".hidden.png", images[0])
    assert_same(open_source(tmp_path), pairs)
    assert open_source(tmp_path).names == ["a", "b/c", "b/d/e"]


def test_folder_with_splits_and_sequences(tmp_path):
    data_tree.save(tmp_path / "train/blurry/a.png", data_tree.frame(1))
    data_tree.save(tmp_path / "train/sharp/a.png", data_tree.frame(2))
    assert open_source(tmp_path, "train").names == ["a"]
    with pytest.raises(UserError, match=r"it has train/ but no test/"):
        open_source(tmp_path, "test")


def test_video_deblurring_tree_is_split_by_the_published_list(tmp_path):
    root = tmp_path / "quantitative_datasets"
    data_tree.video_tree(root, {"IMG_0030": 2, "GOPR9633": 1})
    for path in (tmp_path, root):
        assert open_source(path, "test").names == ["IMG_0030/00000", "IMG_0030/00001"]
        assert open_source(path, "train").names == ["GOPR9633/00000"]


def test_gamma_side_of_a_tree(prepared):
    _, tree, pairs = prepared
    gamma = open_source(tree, options=SourceOptions(blur="blur_gamma"))
    assert (gamma[0].blurry != pairs[gamma.names[0]][0]).any()
    np.testing.assert_array_equal(gamma[0].sharp, pairs[gamma.names[0]][1])


@pytest.mark.parametrize("order", ["sharp first", "blurry first"])
def test_list_of_pairs(tmp_path, order):
    lines = ["# RealBlur's lists name the sharp image first"]
    pairs = {}
    for number in range(3):
        sharp, blurry = f"scene{number}/gt/gt_1.png", f"scene{number}/blur/blur_1.png"
        images = data_tree.frame(number), data_tree.frame(number + 50)
        data_tree.save(tmp_path / blurry, images[0])
        data_tree.save(tmp_path / sharp, images[1])
        pairs[blurry[:-4]] = images
        lines.append(f"{sharp} {blurry}" if order == "sharp first" else f"{blurry}\t{sharp}")
    (tmp_path / "lists").mkdir()
    for where in (tmp_path / "list.txt", tmp_path / "lists/list.txt"):
        where.write_text("\n".join(lines) + "\n\n")
        assert_same(open_source(where), pairs)
    for content, says in (
        ("only_one_path.png\n", r"list\.txt:1: expected"),
        ("a.png b.png\na.jpg c.png\n", r"list\.txt:2: a comes twice"),
        (". .\n", "1 of 1 pairs"),
        ("PK\3\4\0\0", "neither a folder nor a list"),
    ):
        where.write_text(content)
        with pytest.raises(UserError, match=says):
            open_source(where)


def test_faults_are_reported_together(tmp_path):
    for number in range(8):
        data_tree.save(tmp_path / f"blurry/{number}.png", data_tree.frame(number, 20, 30))
        data_tree.save(tmp_path / f"sharp/{number}.png", data_tree.frame(number, 20, 30))
    for number in range(5):
        data_tree.save(tmp_path / f"sharp/{number}.png", data_tree.frame(number, 21, 30))
    with pytest.raises(UserError) as error:
        open_source(tmp_path)
    assert "5 of 8 pairs" in str(error.value)
    assert "0.png is 30x20 but its sharp side 30x21" in str(error.value)
    assert "and 2 more" in str(error.value)
    for number in range(4):
        (tmp_path / f"sharp/{number}.png").unlink()
    (tmp_path / "blurry/7.png").unlink()
    with pytest.raises(UserError) as error:
        open_source(tmp_path)
    assert "5 images have no partner" in str(error.value)
    assert "and 2 more" in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_images_are_named(tmp_path):
    for side in ("blurry", "sharp"):
        data_tree.save(tmp_path / side / "a.png", data_tree.frame(1))
    path = tmp_path / "sharp/a.png"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    source = open_source(tmp_path)  # the header is sound
    with pytest.raises(UserError, match=r"sharp/a\.png: damaged or cut off"):
        source[0]
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 1 pairs: .*sharp/a\.png"):
        open_source(tmp_path)
    path.write_bytes(whole)
    data_tree.save(tmp_path / "blurry/A.jpg", data_tree.frame(1))
    data_tree.save(tmp_path / "blurry/a.jpg", data_tree.frame(1))
    with pytest.raises(UserError, match="the same name"):
        open_source(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(UserError, match="expected blurry/ and sharp/"):
        open_source(tmp_path)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_every_image_mode_becomes_rgb(tmp_path, mode):
    Image.fromarray(data_tree.frame(3)).convert(mode).save(tmp_path / "x.png")
    image = read_rgb(tmp_path / "x.png")
    assert image.shape == (data_tree.HEIGHT, data_tree.WIDTH, 3)
    assert image.dtype == np.uint8
    assert image.flags.writeable


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_is_applied_to_size_and_pixels(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255  # the upper left quarter is white
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    image = read_rgb(tmp_path / "x.png")
    assert image.shape[:2] == read_size(tmp_path / "x.png")
    quarter = {1: (0, 0), 3: (1, 1), 6: (0, 1), 8: (1, 0)}[orientation]
    height, width = image.shape[:2]
    assert image[(height - 1) * quarter[0], (width - 1) * quarter[1], 0] == 255
