"""`dmphn deblur` with a network: what comes out is what the network makes of each file."""

import subprocess
import sys
import threading

import numpy as np
import PIL.Image

from dmphn_jax import checkpoints, cli
from dmphn_jax.images import Image, read_image, write_image
from dmphn_jax.inference import deblurrer as inference
from dmphn_jax.inference import pipeline
from dmphn_jax.inference.ensembles import SelfEnsemble, ShiftEnsemble
from dmphn_jax.models import ModelConfig
from tests.support.deblur import run
from tests.support.networks import random_params
from tests.support.pictures import SHAPE, bomb, negative_of, noise, pixels, saved, tree


def test_a_folder_of_good_and_hostile_files(tmp_path, checkpoint, capfd):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, kind in enumerate(("png", "jpg", "webp", "bmp", "tif")):
        saved(photos / f"good_{index}.{kind}", noise(*SHAPE, 3, seed=index))
    write_image(photos / "good_5.png", Image(noise(*SHAPE, 3, dtype=np.uint16)))
    (photos / "empty.png").touch()
    (photos / "text.png").write_text("Dear reader,\nthis is no picture.\n")
    for kind in ("png", "jpg"):
        data = (photos / f"good_{('png', 'jpg').index(kind)}.{kind}").read_bytes()
        (photos / f"cut.{kind}").write_bytes(data[: len(data) // 2])
    saved(photos / "single.png", noise(1, 1, 3))
    (photos / "bomb.png").write_bytes(bomb())
    (photos / "a.png").mkdir()
    # Not by permissions, which do not bind root: a link to nothing.
    (photos / "unreadable.png").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out"

    assert run(photos, "--checkpoint", checkpoint, "--output", out) == 1

    captured = capfd.readouterr()
    assert "Traceback" not in captured.out + captured.err
    names = ["a.png", "bomb.png", "cut.jpg", "cut.png", "empty.png", "text.png", "unreadable.png"]
    lines = captured.err.strip().splitlines()
    assert [line.split(": ")[2] for line in lines] == [str(photos / name) for name in names]
    assert captured.out.startswith("deblurred 7 of 14 ")
    assert tree(out) == sorted([*(p.name for p in photos.glob("good_*")), "single.png"])
    # What came out is what the network makes of each.
    network = inference.Deblurrer(checkpoint)
    for name in ("good_0.png", "good_3.bmp", "good_4.tif", "good_5.png", "single.png"):
        np.testing.assert_array_equal(pixels(out / name), network(pixels(photos / name)))
    assert pixels(out / "good_5.png").dtype == np.uint16


def test_command_and_module_are_one(tmp_path, checkpoint):
    source = saved(tmp_path / "x.png", noise(*SHAPE, 3))
    assert cli.main(["deblur", str(source), "-c", checkpoint, "-o", str(tmp_path / "a.png")]) == 0
    module = [sys.executable, "-m", "dmphn_jax", "deblur"]
    command = [*module, source, "-c", checkpoint, "-o", tmp_path / "b.png"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == f"deblurred 1 of 1 into {tmp_path}/b.png\n"
    np.testing.assert_array_equal(pixels(tmp_path / "a.png"), pixels(tmp_path / "b.png"))


def test_too_many_stages_and_a_wrong_checkpoint_are_one_line(tmp_path, checkpoint, capfd):
    saved(tmp_path / "x.png", noise(*SHAPE, 3))
    assert run(tmp_path / "x.png", "-c", checkpoint, "-o", tmp_path / "o", "--stages", 2) == 2
    (tmp_path / "nothing").mkdir()
    assert run(tmp_path / "x.png", "-c", tmp_path / "nothing", "-o", tmp_path / "o") == 2
    assert run(tmp_path / "x.png", "-c", tmp_path / "missing", "-o", tmp_path / "o") == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 3
    assert all(line.startswith("dmphn: error: ") for line in lines)


def test_alpha_gray_and_16_bits_survive(tmp_path, checkpoint, inverter, capsys):
    alpha = noise(*SHAPE, seed=5)
    write_image(tmp_path / "alpha.png", Image(noise(*SHAPE, 3), alpha))
    gray = noise(*SHAPE, 1, dtype=np.uint16).repeat(3, -1)
    write_image(tmp_path / "gray.tif", Image(gray, gray=True))
    inputs = [tmp_path / "alpha.png", tmp_path / "gray.tif"]
    assert run(*inputs, "-c", checkpoint, "-o", tmp_path / "out") == 0
    np.testing.assert_array_equal(read_image(tmp_path / "out/alpha.png").alpha, alpha)
    result = read_image(tmp_path / "out/gray.tif")
    assert result.gray
    np.testing.assert_array_equal(result.pixels, 65535 - gray)
    capsys.readouterr()
    assert run(*inputs, "-c", checkpoint, "-o", tmp_path / "bmp", "--format", "bmp") == 0
    notes = [
        line for line in capsys.readouterr().out.splitlines() if line.startswith("note (1 image)")
    ]
    assert len(notes) == 2


def test_format_extensions_and_gif(tmp_path, checkpoint, inverter):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.jpeg", "c.gif"):
        saved(photos / name, noise(*SHAPE, 3))
    assert run(photos, "-c", checkpoint, "-o", tmp_path / "same") == 0
    assert tree(tmp_path / "same") == ["a.png", "b.jpeg", "c.png"]
    assert run(photos, "-c", checkpoint, "-o", tmp_path / "jpg", "--format", "jpg") == 0
    assert tree(tmp_path / "jpg") == ["a.jpg", "b.jpeg", "c.jpg"]
    assert all(PIL.Image.open(p).format == "JPEG" for p in (tmp_path / "jpg").iterdir())
    arguments = ["--extensions", "PNG, .gif", "--quiet"]
    assert run(photos, "-c", checkpoint, "-o", tmp_path / "some", *arguments) == 0
    assert tree(tmp_path / "some") == ["a.png", "c.png"]
    sizes = []
    for quality in (20, 95):
        run(photos, "-c", checkpoint, "-o", tmp_path / f"q{quality}", "--quality", quality)
        sizes.append((tmp_path / f"q{quality}/b.jpeg").stat().st_size)
    assert sizes[0] < sizes[1]


def test_tiles(tmp_path, checkpoint, capfd):
    source = saved(tmp_path / "x.png", noise(96, 80, 3))
    command = [source, "-c", checkpoint, "-o", tmp_path / "o.png", "--tile", 64]
    assert run(*command, "--overlap", 33) == 2
    assert "at most half of a tile" in capfd.readouterr().err
    assert run(*command, "--overlap", 32) == 0
    tiled = inference.Deblurrer(checkpoint, tile=64, overlap=32)
    np.testing.assert_array_equal(pixels(tmp_path / "o.png"), tiled(pixels(source)))


def test_ensembles_and_a_budget(tmp_path, checkpoint, capfd):
    source = saved(tmp_path / "x.png", noise(*SHAPE, 3))
    command = [source, "-c", checkpoint, "-o", tmp_path / "o.png", "--overwrite"]
    assert run(*command, "--ensemble") == 0
    mean = SelfEnsemble(inference.Deblurrer(checkpoint)).submit(pixels(source)[None]).result()[0]
    np.testing.assert_array_equal(pixels(tmp_path / "o.png"), mean)
    assert run(*command, "--budget-ms", 1e6) == 0
    assert f"dmphn: {SHAPE[1]}x{SHAPE[0]}: 1 of 1 stages" in capfd.readouterr().err
    assert run(*command, "--shift-ensemble") == 2
    assert run(*command, "--ensemble", "--budget-ms", 5) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert all(line.startswith("dmphn: error: ") for line in lines)


def test_shifts_of_a_network_with_patches(tmp_path):
    config = ModelConfig(hierarchy="2", width=1)
    checkpoints.save(tmp_path / "model", random_params(config), config)
    sources = [saved(tmp_path / f"{i}.png", noise(*SHAPE, 3, seed=i)) for i in range(3)]
    command = ["-c", tmp_path / "model", "-o", tmp_path / "out", "--shift-ensemble"]
    assert run(*sources, *command) == 0
    network = inference.Deblurrer(tmp_path / "model")
    for source in sources:
        image, got = pixels(source), pixels(tmp_path / "out" / source.name)
        mean = ShiftEnsemble(network, config).submit(image[None]).result()[0]
        np.testing.assert_array_equal(got, mean)
        assert np.any(got != network(image))


def test_so_many_workers_decode_and_encode_at_once(tmp_path, checkpoint, inverter, monkeypatch):
    """The first pictures wait for each other: all workers are at them, and no more."""
    sources = [saved(tmp_path / f"{i}.png", noise(*SHAPE, 3, seed=i)) for i in range(6)]
    threads = {}
    for name in ("read_image", "write"):
        together, inner = threading.Barrier(3), getattr(pipeline, name)
        seen = threads.setdefault(name, set())

        def waiting(*arguments, together=together, inner=inner, seen=seen, **options):
            seen.add(threading.get_ident())
            together.wait(60)  # two rounds of three
            return inner(*arguments, **options)

        monkeypatch.setattr(pipeline, name, waiting)
    command = [*sources, "-c", checkpoint, "-o", tmp_path / "out"]
    assert run(*command, "--workers", 3) == 0
    assert {name: len(seen) for name, seen in threads.items()} == {"read_image": 3, "write": 3}
    assert all(negative_of(tmp_path / "out" / source.name, source) for source in sources)
