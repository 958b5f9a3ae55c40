import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dmphn_jax import checkpoints, models
from dmphn_jax.commands import plot, visualize
from dmphn_jax.errors import UserError, run_command
from dmphn_jax.evaluation import figures, metrics
from dmphn_jax.inference.deblurrer import Deblurrer
from dmphn_jax.models import ModelConfig, zoo

SIZE = (22, 30)


@pytest.fixture(autouse=True)
def _no_compilation_cache(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # leave the user's alone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Checkpoints, and a pair whose sides the grids do not divide."""
    folder = tmp_path_factory.mktemp("visualize")
    rng = np.random.default_rng(0)
    for name, config in {
        "stack": ModelConfig("dmphn", "1-2", stages=2, width=2),
        "dmsn": ModelConfig("dmsn", "2", width=2),
    }.items():
        shapes = models.parameter_shapes(config)
        params = jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(np.float32), shapes)
        checkpoints.save(folder / name, params, config)
    for name in ("blurry", "sharp"):
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def test_both_figures(folder, tmp_path, capsys):
    out = tmp_path / "new" / "figure.png"
    argv = [str(folder / "stack"), str(folder / "blurry.png"), "--output", str(out)]
    assert visualize.main([*argv, "--sharp", str(folder / "sharp.png")]) == 0
    # Two stages and the pair in the first row; two levels of each stage below.
    picture = Image.open(out)
    panel_height = round(160 * SIZE[0] / SIZE[1])
    assert picture.size == (4 * (160 + 8) + 8, 40 + 2 * 20 + 3 * (panel_height + 8) + 8)

    blurry, sharp = (np.asarray(Image.open(folder / f"{n}.png")) for n in ("blurry", "sharp"))
    printed = capsys.readouterr().out
    stages = Deblurrer(folder / "stack").output(blurry).stages
    first, second = (np.rint(255 * np.clip(stage, 0, 1)) for stage in stages)
    for caption, image in {"blurry": blurry, "stage 1": first, "stage 2": second}.items():
        psnr = metrics.scores(image, sharp)["psnr"]
        assert f"{caption}\n{psnr:.2f} dB" in printed


def test_levels_run_from_the_finest_to_the_output(folder):
    deblurrer = Deblurrer(folder / "stack")
    blurry = np.asarray(Image.open(folder / "blurry.png"))
    output = deblurrer.output(blurry)
    rows = visualize.level_panels(output)
    assert [[caption for caption, _ in row] for row in rows] == [
        ["stage 1, level 2", "stage 1, level 1"],
        ["stage 2, level 2", "stage 2, level 1"],
    ]
    np.testing.assert_array_equal(rows[1][-1][1], deblurrer(blurry))
    (stages,) = [visualize.stage_panels(output, blurry)]
    assert [caption for caption, _ in stages] == ["blurry", "stage 1", "stage 2"]
    np.testing.assert_array_equal(stages[1][1], rows[0][-1][1])


def test_scales_of_dmsn_are_drawn_at_one_size(folder, tmp_path):
    out = tmp_path / "figure.png"
    argv = [str(folder / "dmsn"), str(folder / "blurry.png"), "--output", str(out)]
    assert visualize.main([*argv, "--figure", "levels", "--crop", "4,2,16,8"]) == 0
    assert Image.open(out).size == (2 * 168 + 8, 80 + 20 + 8 + 8)


def test_panels_show_the_pixels():
    image = np.zeros((200, 320, 3), np.uint8)
    image[100:, 160:] = (10, 200, 30)
    picture = visualize.draw([[("a", image), ("b", image)]], crop=(0.5, 0.5, 1, 1))
    assert picture.getpixel((8 + 168 + 80, 8 + 20 + 50)) == (10, 200, 30)
    assert picture.size == (2 * 168 + 8, 100 + 20 + 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--crop", "0,0,31,2"], "--crop 0,0,31,2: outside the image of 30 x 22"),
        (["--crop", "1,2"], "four whole numbers"),
        (["--sharp", "missing.png"], "missing.png: "),
        (["--sharp", "SMALL"], "must have the blurry one's size"),
        (["IMAGE=SMALL", "--sharp", "SMALL"], "is 8 x 8; SSIM needs 11 x 11"),
        (["--output", "x.gif"], "--output x.gif: name it .png"),
        (["--output", "gs://bucket/x.png"], "a folder of this machine is needed"),
        (["--sharp", "BAD"], "bad.png: not an image"),
        (["--stages", "3"], "stages 1 to 2"),
        (["--panel-width", "2"], "--panel-width 2"),
    ],
)
def test_mistakes_of_visualize_are_one_line(folder, tmp_path, capsys, options, message):
    small, bad = tmp_path / "small.png", tmp_path / "bad.png"
    Image.new("RGB", (8, 8)).save(small)
    bad.write_bytes(b"no image")
    image = folder / "blurry.png"
    if options[0] == "IMAGE=SMALL":
        image, options = small, options[1:]
    options = [{"SMALL": str(small), "BAD": str(bad)}.get(word, word) for word in options]
    argv = [str(folder / "stack"), str(image), "--output", str(tmp_path / "o.png")]
    assert run_command(visualize.main, [*argv, *options]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not (tmp_path / "o.png").exists()


# --- Fig. 1 ---


def write_report(folder, rows):
    made = {"format": 1, "rows": rows, "environment": {"devices": "1 x cpu"}}
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(made))
    return str(folder)


def a_row(label, psnr, ms, ssim=None):
    runtime = None if ms is None else {"ms": ms, "height": 720, "width": 1280}
    return {"label": label, "psnr": psnr, "ssim_matlab": ssim, "runtime": runtime}


@pytest.fixture
def reports(tmp_path):
    one = [a_row("blurry input", 25.6, None), a_row("A", 30.2, 12.0, 0.91), a_row("B", 31.2, 90.0)]
    return [
        write_report(tmp_path / "gpu", one),
        write_report(tmp_path / "cpu", [a_row("A", 30.2, 9000.0)]),
        write_report(tmp_path / "none", [a_row("A", 30.2, None), a_row("B", None, 3.0)]),
    ]


def test_points_of_a_report(reports):
    name, points, sizes = figures.read_points(reports[0])
    assert name == "gpu (1 x cpu)"
    assert points == [(12.0, 30.2, "A", 0.91), (90.0, 31.2, "B", None)]
    assert sizes == {"1280x720"}
    assert figures.read_points(reports[0] + "/report.json")[1] == points


def test_the_figure(reports):
    series = dict(figures.read_points(path)[:2] for path in reports[:2])
    axes = figures.draw(series, ["1280x720"], paper=True).axes[0]
    paper, gpu, cpu = axes.collections
    assert axes.get_xscale() == "log"
    np.testing.assert_array_equal(gpu.get_offsets(), [[12.0, 30.2], [90.0, 31.2]])
    np.testing.assert_array_equal(cpu.get_offsets(), [[9000.0, 30.2]])
    assert "without waiting" in paper.get_label()
    timed = [entry for entry in zoo.ZOO.values() if entry.tables.startswith("1")]
    assert len(paper.get_offsets()) == len(timed)
    assert "1280x720" in axes.get_xlabel()
    assert len(figures.draw(series).axes[0].collections) == 2


def test_a_second_panel_shows_ssim():
    points = [
        figures.Point(20, 30.2, "first 1", 0.93),
        figures.Point(41, 30.9, "first 2", 0.94),
        figures.Point(63, 31.0, "first 3"),
    ]
    figure = figures.draw({"here": points}, ["64x48"], ssim=True)
    above, below = figure.axes
    np.testing.assert_array_equal(
        above.collections[0].get_offsets(), [[20, 30.2], [41, 30.9], [63, 31.0]]
    )
    np.testing.assert_array_equal(below.collections[0].get_offsets(), [[20, 0.93], [41, 0.94]])
    assert [text.get_text() for text in below.texts] == ["first 1", "first 2"]
    assert "SSIM" in below.get_ylabel()
    assert "ms" in below.get_xlabel()
    assert above.get_xlim() == below.get_xlim()
    assert len(figure.legends[0].get_texts()) == 1


@pytest.mark.parametrize(("first", "last"), [(20, 90), (5, 420), (33, 41)])
def test_milliseconds_are_written_as_plain_numbers(first, last):
    points = [figures.Point(first, 28.0, "a"), figures.Point(last, 29.0, "b")]
    axis = figures.draw({"here": points}).axes[0].xaxis
    low, high = axis.get_view_interval()
    labels = [tick.label1 for which in (axis.majorTicks, axis.minorTicks) for tick in which]
    shown = [label.get_text() for label in labels if low <= label.get_position()[0] <= high]
    texts = [text for text in shown if text]
    assert len(texts) >= 2
    assert all(low <= float(text) <= high for text in texts)  # no powers of ten


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_plot_command(reports, tmp_path, kind):
    out = tmp_path / f"fig1.{kind}"
    assert plot.main([*reports[:2], "--paper", "--output", str(out)]) == 0
    assert out.stat().st_size > 5000


def test_reports_in_folders_of_one_name_are_series_of_their_own(reports, tmp_path, monkeypatch):
    drawn = {}
    draw = figures.draw
    monkeypatch.setattr(
        figures, "draw", lambda series, *a, **k: drawn.update(series) or draw(series)
    )
    twin = tmp_path / "elsewhere" / Path(reports[0]).name
    shutil.copytree(reports[0], twin)
    assert plot.main([reports[0], str(twin), "--output", str(tmp_path / "a.png")]) == 0
    assert len(drawn) == 2


def test_mistakes_of_plot_are_one_line(reports, tmp_path):
    with pytest.raises(UserError, match=r"fig\.gif: ends in none"):
        plot.main([reports[0], "--output", "fig.gif"])
    with pytest.raises(UserError, match="no row has a runtime"):
        plot.main([reports[2], "--output", str(tmp_path / "a.png")])
    with pytest.raises(UserError, match="no such report"):
        plot.main([str(tmp_path), "--output", str(tmp_path / "a.png")])


def test_names_lie_apart_and_within_the_frame():
    """All 18 models, each beside the paper's own point."""
    points = [
        figures.Point(1.1 * (entry.runtime_ms or 30), entry.psnr + 0.03, entry.label)
        for entry in zoo.ZOO.values()
    ]
    figure = figures.draw({"gpu": points}, paper=True)
    figure.draw_without_rendering()
    axes, renderer = figure.axes[0], figure.canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    names = [(text.get_text(), text.get_window_extent(renderer)) for text in axes.texts]
    assert len(names) == 18 + 12
    markers = axes.transData.transform(np.concatenate([c.get_offsets() for c in axes.collections]))
    for i, (name, box) in enumerate(names):
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1, name
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1, name
        assert not any(box.contains(x, y) for x, y in markers), name
        for other, its in names[i + 1 :]:
            assert not box.overlaps(its), (name, other)
