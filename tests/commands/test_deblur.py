import os
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import PIL.Image
import pytest

from dmphn_jax import checkpoints, cli, images, models
from dmphn_jax.commands import deblur
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.images import Image, ImageError, read_image, write_image
from dmphn_jax.inference import deblurrer as inference
from dmphn_jax.inference import pipeline
from dmphn_jax.inference.jobs import Job, plan
from dmphn_jax.models import ModelConfig
from tests.images.test_images import bomb, noise, saved

SHAPE = (16, 20)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A narrow network of random weights, saved."""
    config = ModelConfig(hierarchy="1", width=4)
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.normal(0, 0.1, leaf.shape).astype(np.float32),
        models.parameter_shapes(config),
    )
    path = tmp_path_factory.mktemp("model") / "checkpoint"
    checkpoints.save(path, params, config)
    return str(path)


@pytest.fixture
def inverter(monkeypatch):
    """Puts a negative in the network's place: instant, and its results can be told by eye."""

    class Inverter:
        def __init__(self, checkpoint, *, stages=None, precision="float32"):
            pass

        def __call__(self, image):
            return np.iinfo(image.dtype).max - image

    monkeypatch.setattr(inference, "Deblurrer", Inverter)


def run(*arguments):
    return run_command(deblur.main, [str(argument) for argument in arguments])


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir())


def pixels(path):
    return read_image(path).pixels


def negative_of(path, source):
    return np.array_equal(pixels(path), 255 - pixels(source))


# The network itself


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


def test_defaults_are_the_libraries_own():
    """The parser spells them out, for --help to answer without numpy and jax."""
    args = deblur.parser().parse_args(["x.png", "-c", "c", "-o", "o"])
    assert args.quality == images.DEFAULT_QUALITY
    assert args.max_pixels == images.DEFAULT_MAX_PIXELS
    assert set(deblur._FORMATS.values()) == set(images.WRITABLE)
    for precision in inference.PRECISIONS:
        deblur.parser().parse_args(["x", "-c", "c", "-o", "o", "--precision", precision])


# What goes where


def test_tree_is_kept_and_the_rest_passed_over(tmp_path, checkpoint, inverter, capsys):
    photos = tmp_path / "photos"
    names = ["a.png", "sub/a.png", "sub/deep/er/b.PNG", "x.png/inside.png"]
    for index, name in enumerate(names):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        saved(photos / name, noise(*SHAPE, 3, seed=index))
    (photos / "notes.txt").write_text("x")
    (photos / "._a.png").write_text("resource fork")
    (photos / ".cache").mkdir()
    saved(photos / ".cache/thumbnail.png", noise(4, 4, 3))
    (photos / "loop").symlink_to(photos)
    assert run(photos, "-c", checkpoint, "-o", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == sorted(names)
    for name in names:
        assert negative_of(tmp_path / "out" / name, photos / name)
    assert "1 .txt" in capsys.readouterr().out


def test_single_image_to_a_file_or_a_folder(tmp_path, checkpoint, inverter):
    source = saved(tmp_path / "x.png", noise(*SHAPE, 3))
    for output, made in (
        ("y.png", "y.png"),
        ("new/z.tif", "new/z.tif"),
        ("folder", "folder/x.png"),
        ("v1.2", "v1.2/x.png"),
        ("slash.png/", "slash.png/x.png"),
    ):
        # Not by `/`, which would drop the slash at the end.
        assert run(source, "-c", checkpoint, "-o", f"{tmp_path}/{output}") == 0
        assert negative_of(tmp_path / made, source)


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


# What is there already


def test_existing_outputs_are_skipped_unless_told(tmp_path, checkpoint, inverter, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    for name in ("a.png", "b.png"):
        saved(photos / name, noise(*SHAPE, 3))
    (out / "a.png").write_bytes(b"precious")
    assert run(photos, "-c", checkpoint, "-o", out) == 0
    assert (out / "a.png").read_bytes() == b"precious"
    assert negative_of(out / "b.png", photos / "b.png")
    assert "1 skipped" in capsys.readouterr().out
    assert run(photos, "-c", checkpoint, "-o", out, "--overwrite") == 0
    assert negative_of(out / "a.png", photos / "a.png")


def test_inputs_are_only_overwritten_when_told(tmp_path, checkpoint, inverter, capsys):
    source = saved(tmp_path / "x.png", noise(*SHAPE, 3))
    before = pixels(source)
    (tmp_path / "link.png").symlink_to(source)
    for output in (source, tmp_path, tmp_path / "link.png"):
        assert run(source, "-c", checkpoint, "-o", output) == 2
        assert "over itself" in capsys.readouterr().err
    assert run(tmp_path, "-c", checkpoint, "-o", tmp_path) == 2
    np.testing.assert_array_equal(pixels(source), before)
    assert run(source, "-c", checkpoint, "-o", source, "--overwrite") == 0
    np.testing.assert_array_equal(pixels(source), 255 - before)


def test_never_over_another_input(tmp_path, checkpoint, inverter, capsys):
    saved(tmp_path / "a.png", noise(*SHAPE, 3))
    (tmp_path / "sub").mkdir()
    victim = saved(tmp_path / "sub/a.png", noise(*SHAPE, 3, seed=1))
    before = victim.read_bytes()
    inputs = [tmp_path / "a.png", victim]
    assert run(*inputs, "-c", checkpoint, "-o", tmp_path / "sub", "--overwrite") == 2
    assert victim.read_bytes() == before


def test_outputs_inside_the_input_are_not_inputs_again(tmp_path, checkpoint, inverter):
    saved(tmp_path / "a.png", noise(*SHAPE, 3))
    for _ in range(2):
        assert run(tmp_path, "-c", checkpoint, "-o", tmp_path / "sharp", "--overwrite") == 0
    assert tree(tmp_path) == ["a.png", "sharp/a.png"]


def test_two_inputs_for_one_output_are_told_before_work(tmp_path, checkpoint, inverter, capsys):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        saved(tmp_path / folder / "a.png", noise(*SHAPE, 3))
    assert run(tmp_path / "one", tmp_path / "two", "-c", checkpoint, "-o", tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert str(tmp_path / "one/a.png") in error
    assert str(tmp_path / "two/a.png") in error
    assert not (tmp_path / "out").exists()
    saved(tmp_path / "one/a.jpg", noise(*SHAPE, 3))
    assert run(tmp_path / "one", "-c", checkpoint, "-o", tmp_path / "out", "--format", "png") == 2
    assert not (tmp_path / "out").exists()
    # The same file twice is one job.
    twice = [tmp_path / "one/a.png"] * 2
    assert run(*twice, "-c", checkpoint, "-o", tmp_path / "out") == 0


def test_dry_run_tells_all_and_does_nothing(tmp_path, checkpoint):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    for name in ("a.png", "b.png"):
        saved(photos / name, noise(*SHAPE, 3))
    (photos / "bomb.png").write_bytes(bomb())
    (out / "a.png").write_bytes(b"old")
    # In its own process, to see that jax is not loaded.
    code = (
        "import sys; from dmphn_jax.commands import deblur; status = deblur.main(sys.argv[1:]); "
        "assert 'jax' not in sys.modules; sys.exit(status)"
    )
    command = [sys.executable, "-c", code, photos, "-c", checkpoint, "-o", out, "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"skip    {photos}/a.png: {out}/a.png exists"
    assert lines[1] == f"deblur  {photos}/b.png (20x16 PNG) -> {out}/b.png"
    assert lines[2].startswith(f"fail    {photos}/bomb.png: 60000x60000")
    assert lines[3] == "would deblur 1, skip 1, fail 1"
    assert tree(out) == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["missing.png", "-o", "out"], "missing.png: no such file"),
        (["empty", "-o", "out"], "no images"),
        (["x.png", "-o", "y.gif"], ".gif is not written"),
        (["x.png", "-o", "y.heic"], ".heic is not written"),
        (["x.png", "-o", "y.jpg", "--format", "png"], "disagree"),
        (["x.png", "z.png", "-o", "text"], "several images need a folder"),
        (["folder", "-o", "text"], "need a folder"),
        (["x.png", "-o", "text"], "without an image's extension"),
        (["x.png", "-o", "text/below"], "--output text/below"),
        (["folder", "-o", "out", "--extensions", "png,tfi"], "did you mean"),
        (["folder", "-o", "out", "--extensions", ","], "--extensions"),
    ],
)
def test_wrong_use_is_one_line(
    tmp_path, checkpoint, inverter, capsys, monkeypatch, arguments, says
):
    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "z.png"):
        saved(tmp_path / name, noise(4, 4, 3))
    for name in ("empty", "folder"):
        (tmp_path / name).mkdir()
    saved(tmp_path / "folder/x.png", noise(4, 4, 3))
    (tmp_path / "text").write_text("x")
    assert run(*arguments, "-c", checkpoint) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flags",
    [
        ["--quality", "0"],
        ["--quality", "101"],
        ["--stages", "0"],
        ["--max-pixels", "many"],
        ["--format", "gif"],
    ],
)
def test_wrong_flags_exit_2(tmp_path, flags, capsys):
    with pytest.raises(SystemExit) as raised:
        deblur.main(["x.png", "-c", "c", "-o", "o", *flags])
    assert raised.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_max_pixels_is_a_flag(tmp_path, checkpoint, inverter, capsys):
    source = saved(tmp_path / "x.png", noise(50, 40, 3))
    assert run(source, "-c", checkpoint, "-o", tmp_path / "y.png", "--max-pixels", "1.9k") == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert run(source, "-c", checkpoint, "-o", tmp_path / "y.png", "--max-pixels", "2k") == 0


def test_names_of_any_bytes(tmp_path, checkpoint, inverter, capsys):
    photos = os.fsencode(tmp_path) + b"/photos"
    os.mkdir(photos)
    for name in (b"\xff\xfe.png", b"two\nlines.png", "größe.png".encode()):
        saved(os.fsdecode(photos + b"/" + name), noise(*SHAPE, 3))
    with open(photos + b"/bad\n\xff.png", "wb"):
        pass
    assert run(os.fsdecode(photos), "-c", checkpoint, "-o", tmp_path / "out") == 1
    assert len(os.listdir(tmp_path / "out")) == 3
    assert capsys.readouterr().err.count("\n") == 1


# When things go wrong on the way


def jobs_of(folder, out, count):
    folder.mkdir()
    for index in range(count):
        saved(folder / f"{index:02}.png", noise(*SHAPE, 3, seed=index))
    return plan([str(folder)], str(out)).jobs


def test_out_of_memory_is_a_line_and_the_rest_goes_on(tmp_path):
    jobs = jobs_of(tmp_path / "in", tmp_path / "out", 4)
    errors = iter([MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), KeyError("k")])

    def network(image):
        error = next(errors, None)
        if error:
            raise error
        return image

    failures = [r.failure for r in pipeline.run_jobs(jobs, network, workers=1) if r.failure]
    assert sum("too large for memory (20x16)" in failure for failure in failures) == 2
    assert sum("KeyError" in failure for failure in failures) == 1
    assert len(tree(tmp_path / "out")) == 1


def test_unwritable_outputs_are_lines(tmp_path, checkpoint, inverter, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "sub").mkdir(parents=True)
    for name in ("a.png", "sub/b.png"):
        saved(photos / name, noise(*SHAPE, 3))
    out.mkdir()
    (out / "sub").write_text("a file where a folder must be")
    assert run(photos, "-c", checkpoint, "-o", out) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "cannot be written" in captured.err
    assert tree(out) == ["a.png", "sub"]


def test_pictures_in_flight_are_bounded(tmp_path, monkeypatch):
    jobs = jobs_of(tmp_path / "in", tmp_path / "out", 24)
    held, most, lock = 0, 0, threading.Lock()
    read, write = pipeline.read_image, pipeline.write

    def counted_read(*args, **kwargs):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)
        return read(*args, **kwargs)

    def counted_write(*args, **kwargs):
        nonlocal held
        result = write(*args, **kwargs)
        with lock:
            held -= 1
        return result

    monkeypatch.setattr(pipeline, "read_image", counted_read)
    monkeypatch.setattr(pipeline, "write", counted_write)
    one = SHAPE[0] * SHAPE[1]
    results = list(pipeline.run_jobs(jobs, lambda x: x, workers=4, in_flight=3 * one))
    assert [r.failure for r in results] == [None] * 24
    assert 1 <= most <= 3
    # Even a picture above the bound is done, alone.
    most, out = 0, tmp_path / "alone"
    jobs = [Job(job.source, str(out / os.path.basename(job.output))) for job in jobs[:5]]
    assert len(list(pipeline.run_jobs(jobs, lambda x: x, workers=4, in_flight=1))) == 5
    assert most == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_interrupt_leaves_whole_files_only(tmp_path, checkpoint, monkeypatch, capsys, error):
    photos, out = tmp_path / "photos", tmp_path / "out"
    jobs_of(photos, out, 12)
    calls = []

    class Interrupted:
        def __init__(self, *_, **__):
            pass

        def __call__(self, image):
            calls.append(1)
            if len(calls) == 6:
                raise error
            return image

    monkeypatch.setattr(inference, "Deblurrer", Interrupted)
    if error is KeyboardInterrupt:
        assert run(photos, "-c", checkpoint, "-o", out) == 130
    else:
        with pytest.raises(SystemExit):
            run(photos, "-c", checkpoint, "-o", out)
    assert "run the same command again" in capsys.readouterr().err
    assert all(name.endswith(".png") and not name.startswith(".") for name in tree(out))
    for name in tree(out):
        np.testing.assert_array_equal(pixels(out / name), pixels(photos / name))
    monkeypatch.setattr(inference, "Deblurrer", lambda *_, **__: lambda image: image)
    assert run(photos, "-c", checkpoint, "-o", out) == 0
    assert len(tree(out)) == 12


KILLED = """
import sys, time
from dmphn_jax.commands import deblur
from dmphn_jax.inference import deblurrer as inference

class Slow:
    def __init__(self, *_, **__): pass
    def __call__(self, image):
        print("working", flush=True)
        time.sleep(0.02)
        return image

inference.Deblurrer = Slow
from dmphn_jax.errors import run_command
sys.exit(run_command(deblur.main, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_runs_leave_whole_files_only(tmp_path, checkpoint, number):
    photos, out = tmp_path / "photos", tmp_path / "out"
    jobs_of(photos, out, 40)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, photos, "-c", checkpoint, "-o", out],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert b"Traceback" not in error
    made = [name for name in tree(out) if not name.startswith(".dmphn-")]
    assert len(made) < 40
    for name in made:
        np.testing.assert_array_equal(pixels(out / name), pixels(photos / name))
    if number == signal.SIGTERM:
        assert made == tree(out)


def test_plan_does_not_touch_the_disk(tmp_path):
    saved(tmp_path / "a.png", noise(4, 4, 3))
    jobs, ignored = plan([str(tmp_path / "a.png")], str(tmp_path / "out"))
    assert jobs == [Job(str(tmp_path / "a.png"), str(tmp_path / "out" / "a.png"))]
    assert not ignored
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError):
        plan([str(tmp_path / "b.png")], str(tmp_path / "out"))


def test_results_keep_the_notes_of_reading(tmp_path):
    picture = PIL.Image.fromarray(noise(*SHAPE, 3))
    picture.save(tmp_path / "x.jpg", "MPO", save_all=True, append_images=[picture])
    job = Job(str(tmp_path / "x.jpg"), str(tmp_path / "y.jpg"))
    (result,) = pipeline.run_jobs([job], lambda x: x)
    assert result.failure is None
    assert len(result.notes) == 1


def test_image_error_is_a_user_error():
    assert issubclass(ImageError, UserError)
