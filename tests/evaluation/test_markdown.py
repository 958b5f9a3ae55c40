import dataclasses

from dmphn_jax import models
from dmphn_jax.data.splits import VIDEO_DEBLURRING_TEST
from dmphn_jax.evaluation import markdown
from dmphn_jax.evaluation.paper import BLURRY, TABLE_3
from dmphn_jax.evaluation.scores import Runtime
from tests.support.evaluation import TINY, as_report, row


def cells(text, first):
    line = next(line for line in text.splitlines() if line.startswith(f"| {first} "))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_rows_stand_beside_the_papers_figures():
    stack4 = models.zoo.get("stack4")
    about = {"checkpoint": "c", "digest": "0" * 64, "scores": {"a": 31.0, "b": 32.0}}
    full = row("Stack(4)-DMPHN", config=stack4, **about)
    rows = [
        row(BLURRY, about["scores"]),
        dataclasses.replace(full, runtime=Runtime(80.04, 720, 1280), images_per_second=12.5),
        row("cut", config=stack4, stages=2, **about),
        row("own", config=TINY, **about),
    ]
    text = markdown.text(as_report(rows))
    assert cells(text, "model")[:6] == [
        "model",
        "PSNR (dB)",
        "paper's, GoPro",
        "SSIM (MATLAB 3-D)",
        "paper's, GoPro",
        "SSIM (scikit-image)",
    ]
    assert cells(text, "blurry input")[1:6] == ["31.50", "", "0.9000", "", "0.8000"]
    assert cells(text, r"Stack(4)-DMPHN")[1:] == [
        *["31.50", "31.20", "0.9000", "0.9453", "0.8000"],
        *["86.8", "80.0", "1280x720", "424", "12.50"],
    ]
    # Two of four stages are not the paper's Stack(2): its figures carry a mark.
    assert cells(text, "cut")[2] == "30.71*"
    assert "trained by itself" in text
    assert cells(text, "own")[2] == ""
    assert "other images" not in text
    assert "without waiting" in text
    # Columns that would be empty are left out, and what explains them.
    text = markdown.text(as_report([full]))
    assert cells(text, "model")[-1] == "MB"
    assert "without waiting" not in text
    assert "other images" in markdown.text(as_report(rows, images=5))


def test_videos_stand_beside_table_3():
    known = TABLE_3[BLURRY][:10]
    blurry = dict(sorted(zip(VIDEO_DEBLURRING_TEST, known, strict=True)))
    blurry["other"] = 30.0
    stack2 = models.zoo.get("stack2")
    rows = [
        row(BLURRY, blurry),
        row("Stack(2)-DMPHN", dict.fromkeys(blurry, 30.0), config=stack2, checkpoint="c"),
    ]
    text = markdown.text(as_report(rows, source="video_deblurring"))
    rows = [line for line in text.splitlines() if "(#" in line]
    assert [line.split()[1] for line in rows] == list(VIDEO_DEBLURRING_TEST)
    assert cells(text, "IMG_0049 (#2)")[1:] == ["30.52 (30.52)", "30.00 (33.98)"]
    assert cells(text, "other")[1:] == ["30.00", "30.00"]
    assert cells(text, "mean")[1:] == ["27.40 (27.14)", "30.00 (31.22)"]
    assert cells(text, "Stack(2)-DMPHN")[1:3] == ["30.00", "31.22"]
