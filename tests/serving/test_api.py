"""What programs send and get: pictures, what the server tells of itself."""

import io
import re
import shlex
import shutil
import subprocess
import time

import numpy as np
import PIL.Image
import pytest

from dmphn_jax.images import Image, Metadata, encode_image, read_image, read_rgb
from dmphn_jax.inference import deblurrer as inference
from dmphn_jax.serving import openapi
from tests.support.deblur import deblurrer_of, run
from tests.support.pages import ROOT
from tests.support.pictures import SHAPE, noise
from tests.support.serving import Negative, running, until


@pytest.fixture(scope="module")
def client():
    with running() as started:
        yield started


def encoded(kind="PNG", dtype=np.uint8, **more):
    return encode_image(Image(noise(*SHAPE, 3, dtype=dtype), **more), kind)[0]


EXIF = PIL.Image.Exif()
EXIF[0x010F], EXIF[0x0112] = "A maker", 6  # turned by a quarter


def turned():
    file = io.BytesIO()
    PIL.Image.fromarray(noise(*SHAPE, 3)).save(file, "JPEG", exif=EXIF, dpi=(300, 300))
    return file.getvalue()


PICTURES = {
    "a.png": encoded(metadata=Metadata(text=(("Title", "A title"),))),
    "16 bits.png": encoded(dtype=np.uint16),
    "alpha.png": encoded(alpha=noise(*SHAPE)),
    "turned.jpg": turned(),
    "b.webp": encoded("WEBP"),
    "c.bmp": encoded("BMP"),
    "deep.tif": encoded("TIFF", dtype=np.uint16),
}


@pytest.mark.parametrize("name", PICTURES)
def test_the_bytes_are_those_of_dmphn_deblur(name, client, tmp_path, monkeypatch):
    negative = deblurrer_of(lambda image: np.iinfo(image.dtype).max - image)
    monkeypatch.setattr(inference, "Deblurrer", negative)
    source, output = tmp_path / name, tmp_path / "out" / name
    source.write_bytes(PICTURES[name])
    (tmp_path / "checkpoint").mkdir()
    assert run(source, "-c", tmp_path / "checkpoint", "-o", output) == 0
    by_form = client.send("/v1/deblur", "image", name, PICTURES[name])
    by_body = client.ask("POST", "/v1/deblur", PICTURES[name])
    assert by_form.status == by_body.status == 200
    assert by_form.body == by_body.body == output.read_bytes()
    assert by_form.headers["Content-Type"] == PIL.Image.open(output).get_format_mimetype()
    if name == "turned.jpg":
        assert read_image(output).pixels.shape == (SHAPE[1], SHAPE[0], 3)
        assert PIL.Image.open(io.BytesIO(by_form.body)).getexif()[0x010F] == "A maker"


@pytest.mark.parametrize(
    ("sent", "got"),
    [
        ("a.png", 'filename="a.png"'),
        ("../../etc/passwd", 'filename="passwd.png"'),
        ("C:\\photos\\a.PNG", 'filename="a.PNG"'),
        ("in fact a png.jpg", "filename*=utf-8''in%20fact%20a%20png.png"),
        ("ü.png", "filename*=utf-8''%C3%BC.png"),
        ("x" * 300 + ".png", f'filename="{"x" * 116}.png"'),
        ("a\tb\u202e.png", 'filename="ab.png"'),
        ("..", 'filename="image.png"'),
    ],
)
def test_a_result_has_the_name_of_the_file_and_its_own_format(client, sent, got):
    answer = client.send("/v1/deblur", "image", sent, PICTURES["a.png"])
    assert answer.status == 200
    assert answer.headers["Content-Disposition"] == f"attachment; {got}"


def test_a_gif_comes_back_as_png(client):
    file = io.BytesIO()
    PIL.Image.fromarray(noise(*SHAPE)).save(file, "GIF")
    answer = client.send("/v1/deblur", "image", "a.gif", file.getvalue())
    assert answer.headers["Content-Type"] == "image/png"
    assert 'filename="a.png"' in answer.headers["Content-Disposition"]
    np.testing.assert_array_equal(read_rgb(answer.body), 255 - read_rgb(file.getvalue()))


def test_stages_and_passes(client):
    seen = client.service.engine.deblurrer.seen
    for query, passes in (
        ("", [2]),
        ("?stages=1", [1]),
        ("?stages=2&ensemble=flips", 8 * [2]),
        ("?stages=1&ensemble=shifts", 2 * [1]),
    ):
        seen.clear()
        answer = client.ask("POST", f"/v1/deblur{query}", PICTURES["a.png"])
        assert answer.status == 200
        assert [stages for stages, _ in seen] == passes
        np.testing.assert_array_equal(read_rgb(answer.body), 255 - read_rgb(PICTURES["a.png"]))


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("stages=3", "stages 1 to 2"),
        ("stages=0", "stages 1 to 2"),
        ("stages=-1", "stages 1 to 2"),
        ("stages=all", "stages 1 to 2"),
        ("stages=%C2%B2", "stages 1 to 2"),
        ("ensemble=true", "one of none, flips, shifts"),
        ("stage=1", "did you mean 'stages'"),
    ],
)
def test_a_wrong_parameter_is_told_before_the_file_is_read(client, query, reason):
    answer = client.ask("POST", f"/v1/deblur?{query}", b"no picture")
    assert answer.status == 400
    assert reason in answer.detail
    assert answer.headers["Content-Type"] == "application/problem+json"


def test_notes_on_what_is_lost_come_along(client):
    file = io.BytesIO()
    frames = [PIL.Image.fromarray(noise(*SHAPE, 3, seed=seed)) for seed in range(2)]
    frames[0].save(file, "MPO", save_all=True, append_images=frames[1:])
    begun = time.perf_counter()
    answer = client.send("/v1/deblur", "image", "a.jpg", file.getvalue())
    taken = time.perf_counter() - begun
    assert answer.status == 200
    assert "multi-picture" in answer.headers["Dmphn-Notes"]
    seconds = answer.headers["Dmphn-Seconds"]
    assert re.fullmatch(r"\d+\.\d{3}", seconds)  # of a tiny model also 0.000
    assert float(seconds) <= taken + 0.001


def test_what_the_server_tells_of_itself(client):
    model = client.get("/v1/model").json
    assert model["model"] == "a model"
    assert model["stages"] == 2
    assert model["ensembles"] == ["none", "flips", "shifts"]
    assert set(model["film_extensions"]) >= {".mp4", ".mkv", ".mxf"}
    assert model["limits"]["pixels"] == client.service.limits.pixels
    assert client.get("/healthz").json == {"status": "ready"}
    client.ask("POST", "/v1/deblur", PICTURES["a.png"])
    counted = 'dmphn_requests_total{method="POST",route="/v1/deblur",status="200"}'
    until(lambda: counted in client.get("/metrics").body.decode())
    figures = client.get("/metrics").body.decode()
    assert re.search(r"^dmphn_pictures_total [1-9]", figures, re.M)
    assert re.search(r"^dmphn_queue 0\.0$", figures, re.M)
    assert re.search(r"^process_resident_memory_bytes", figures, re.M)


def test_strangers_cannot_fill_the_figures(client):
    for index in range(3):
        assert client.get(f"/nothing/{index}").status == 404
        client.ask("BREW", "/")
    figures = client.get("/metrics").body.decode()
    assert "nothing" not in figures
    assert "BREW" not in figures


def test_the_description_names_every_address_and_no_other(client):
    document = client.get("/openapi.json").json
    assert document == openapi.document()
    starlette = client.server.config.loaded_app._app._app
    served = {
        (route.path, method.lower())
        for route in starlette.routes
        if route.path.startswith(("/v1", "/healthz", "/metrics"))
        for method in route.methods - {"HEAD"}
    }
    assert {(path, verb) for path, verbs in document["paths"].items() for verb in verbs} == served
    limits = client.get("/v1/model").json["limits"]
    assert all(isinstance(value, int | float) for value in limits.values())


def test_another_method_and_another_address_are_told_in_words(client):
    answer = client.get("/v1/deblur")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert client.get("/v1/nothing").detail == "nothing is here; /docs tells what is"
    assert client.get("/static/../app.py").status == 404
    assert client.get("/static/%2e%2e/app.py").status == 404


def test_a_fault_is_told_without_its_cause(caplog):
    class Broken(Negative):
        def submit(self, images):
            if images.shape[1:3] == SHAPE:
                raise RuntimeError("a secret")
            return super().submit(images)

    with running(Broken()) as client:
        answer = client.ask("POST", "/v1/deblur", PICTURES["a.png"])
        assert answer.status == 500
        assert answer.detail == "a fault of this server; its log tells more"
        until(lambda: "a secret" in caplog.text)
        assert list(client.service.folder.iterdir()) == []


def test_the_examples_of_the_docs_run(client, tmp_path, monkeypatch):
    page = (ROOT / "docs" / "serving.md").read_text()
    address = f"http://127.0.0.1:{client.port}/"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(PICTURES["turned.jpg"])
    (example,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(example.replace("http://127.0.0.1:8080/", address), {})
    expected = client.ask("POST", "/v1/deblur", PICTURES["turned.jpg"]).body
    assert (tmp_path / "sharp.jpg").read_bytes() == expected
    if shutil.which("curl"):
        for line in re.findall(r"^    (curl .*photo.jpg .*v1/deblur.*)$", page, re.M):
            command = shlex.split(line.replace("http://127.0.0.1:8080/", address))
            (tmp_path / "sharp.jpg").unlink(missing_ok=True)
            (tmp_path / "photo.jpg").write_bytes(PICTURES["turned.jpg"])
            if "-OJ" in command:  # which would not write over the picture that is sent
                (tmp_path / "photo.jpg").rename(tmp_path / "p.jpg")
                command[command.index("image=@photo.jpg")] = "image=@p.jpg;filename=photo.jpg"
            subprocess.run([*command, "-sS"], check=True)
            result = tmp_path / ("photo.jpg" if "-OJ" in command else "sharp.jpg")
            assert result.read_bytes() == expected
