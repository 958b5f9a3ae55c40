"""Fifty uploads at once, good and hostile, to a server in a process of its own."""

from __future__ import annotations

import io
import itertools
import json
import signal
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import PIL.Image
import pytest

from dmphn_jax.images import Image, Metadata, encode_image, read_image
from dmphn_jax.inference.deblurrer import Deblurrer
from tests.support.pictures import bomb, noise
from tests.support.serving import form, head, process, resident

SIZES = [(16, 20), (20, 16), (13, 18)]  # that share two programs, padded to the grid
MEMORY = 400_000_000  # bytes that the server may take for all of it; 0.22 GB were seen
LIMITS = ("--max-upload", "3M", "--max-pixels", "4M", "--upload-seconds", 2, "--queue", 64)


def picture(index, kind="PNG", dtype=np.uint8, **more):
    image = Image(noise(*SIZES[index % len(SIZES)], 3, dtype=dtype, seed=index), **more)
    return encode_image(image, kind)[0]


def pillow(kind, mode="RGB", array=None, **options):
    file = io.BytesIO()
    made = PIL.Image.fromarray(noise(*SIZES[0], 3) if array is None else array)
    made.convert(mode).save(file, kind, **options)
    return file.getvalue()


def large(kind, dtype=np.uint8):
    """A picture of a million pixels, the same for every lossless kind, as areas: a small file."""
    areas = noise(20, 20, 3, dtype=dtype).repeat(50, axis=0).repeat(50, axis=1)
    return encode_image(Image(areas), kind)[0]


def rotated():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    return pillow("JPEG", exif=exif)


def good():
    """(name, data) of pictures that are to be answered: of each kind and size, and large ones."""
    kinds = {
        "a.png": lambda index: picture(index),
        "b.jpg": lambda index: picture(index, "JPEG"),
        "c.webp": lambda index: picture(index, "WEBP"),
        "deep.png": lambda index: picture(index, dtype=np.uint16),
        "alpha.png": lambda index: picture(index, alpha=noise(*SIZES[index], seed=index)),
        "gray.tif": lambda index: picture(index, "TIFF", metadata=Metadata(dpi=(72, 72))),
    }
    made = [(name, make(index)) for name, make in kinds.items() for index in range(3)]
    made += [("cmyk.jpg", pillow("JPEG", "CMYK")), ("rotated.jpg", rotated())]
    made += [("palette.png", pillow("PNG", "P")), ("lied.jpg", pillow("GIF", "L"))]
    made += [("../../../etc/cron.d/x.png", picture(0))]
    made += [("large.jpg", large("JPEG")), ("large.tif", large("TIFF"))]
    made += [("large.png", large("PNG")), ("again.png", large("PNG"))]
    made += [("large and deep.png", large("PNG", np.uint16))]
    made += [("large and deep.tif", large("TIFF", np.uint16))]
    return made


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def decompression_bomb():
    """A PNG of 8 KB with a comment of 200 MB."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200_000_000), 1)[:2_900_000])
    data = picture(0)
    return data[:33] + text + data[33:]


def many_frames():
    frames = [PIL.Image.fromarray(noise(*SIZES[0], 3, seed=seed)) for seed in range(3)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def sent(data, name="a.png"):
    """A whole request for `Client.raw`."""
    body, kind = form("image", name, data)
    lines = (f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close")
    return [head("/v1/deblur", *lines) + body]


def as_body(data, *lines, path="/v1/deblur"):
    return [head(path, f"Content-Length: {len(data)}", "Connection: close", *lines) + data]


def chunked(total):
    part = b"10000\r\n" + bytes(65536) + b"\r\n"
    header = head("/v1/deblur", "Transfer-Encoding: chunked", "Connection: close")
    return [header, *[part] * (total // 65536), b"0\r\n\r\n"]


def hostile():
    """What is sent, each with the status that answers it and a word of the reason."""
    png, jpeg = picture(1), picture(1, "JPEG")
    wide = struct.pack(">IIBBBBB", 2**31 - 1, 2**31 - 1, 8, 2, 0, 0, 0)
    none = struct.pack(">IIBBBBB", 0, 0, 8, 2, 0, 0, 0)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
    multipart = "Content-Type: multipart/form-data"
    many = b"".join(
        b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' for _ in "x" * 99
    )
    return {
        "empty": (sent(b""), 422, "empty"),
        "no body": (as_body(b""), 422, "empty"),
        "cut off": (sent(png[: len(png) // 2]), 422, "cut off"),
        "cut off jpeg": (sent(jpeg[: len(jpeg) // 2], "a.jpg"), 422, "cut off"),
        "text named jpg": (sent(b"Dear reader,\n", "a.jpg"), 422, "not an image"),
        "a program": (sent(b"\x7fELF" + bytes(500)), 422, "not an image"),
        "svg": (sent(svg, "a.svg"), 422, "not an image"),
        "html": (sent(b"<!doctype html><script>1</script>", "a.png"), 422, "not an image"),
        "3.6 billion pixels": (sent(bomb()), 422, "pixels"),
        "huge sides": (sent(png[:8] + chunk(b"IHDR", wide) + png[33:]), 422, "pixels"),
        "no pixel": (sent(png[:8] + chunk(b"IHDR", none) + png[33:]), 422, "damaged"),
        "a comment of 200 MB": (sent(decompression_bomb()), 422, "damaged"),
        "animated": (sent(many_frames(), "a.gif"), 422, "frames"),
        "float pixels": (sent(pillow("TIFF", "F"), "a.tif"), 422, "float"),
        "random": (sent(png[:33] + noise(3000).tobytes()), 422, "damaged"),
        "too many bytes": (as_body(bytes(3_000_001)), 413, "larger"),
        "a length that is a lie": (
            [head("/v1/deblur", f"Content-Length: {10**15}")],
            413,
            "larger",
        ),
        "endless": (chunked(8_000_000), 413, "larger"),
        "dripping": ([head("/v1/deblur", "Content-Length: 999", "Connection: close")], 408, "slow"),
        "compressed": (as_body(png, "Content-Encoding: gzip"), 415, "compressed"),
        "no boundary": (as_body(b"x", multipart), 400, "multipart"),
        "a form that ends early": (as_body(b"--x\r\n", f"{multipart}; boundary=x"), 400, "file"),
        "no form": (as_body(b"nonsense", f"{multipart}; boundary=x"), 400, "multipart"),
        "a form of many fields": (as_body(many, f"{multipart}; boundary=x"), 400, "fields"),
        "another field": ([sent(png)[0].replace(b'"image"', b'"other"')], 400, "image"),
        "wrong stages": (as_body(png, path="/v1/deblur?stages=../2"), 400, "stages"),
        "wrong method": ([head("/v1/deblur", "Connection: close", method="PUT")], 405, "method"),
        "a long header": ([head("/v1/deblur", f"X: {'x' * 900_000}")], 400, "Invalid"),
        "no http": ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"], 400, "Invalid"),
        "two lengths": (as_body(png, "Content-Length: 5"), 400, "Invalid"),
        "smuggled": (as_body(png, "Transfer-Encoding: identity"), 400, "Invalid"),
    }


@pytest.fixture(scope="module")
def server(checkpoint, compiled_once):
    shared = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # what it compiles serves here too
    with process("-c", checkpoint, *LIMITS, **shared) as started:
        yield started


def once(deblurrer):
    """Computes every picture once, in however many files it is."""
    known = {}

    def deblurred(pixels):
        key = pixels.tobytes(), pixels.shape, pixels.dtype
        if key not in known:
            known[key] = deblurrer(pixels)
        return known[key]

    return deblurred


def expected(deblurred, data, path):
    """What `dmphn deblur` writes."""
    path.write_bytes(data)
    image = read_image(path)
    kind = PIL.Image.open(path).format
    kind = "PNG" if kind == "GIF" else kind
    return encode_image(image.with_pixels(deblurred(image.pixels)), kind)[0]


def test_fifty_uploads_at_once(server, checkpoint, tmp_path):
    bad, fine = hostile(), good()
    assert len(bad) >= 20
    assert len(bad) + len(fine) >= 50
    assert len(fine) <= len(bad)
    client, before = server.client, resident(server.process.pid)
    with ThreadPoolExecutor(len(bad) + len(fine)) as pool:
        refused, answered = {}, []
        for (name, (parts, _, _)), each in itertools.zip_longest(bad.items(), fine):
            refused[name] = pool.submit(client.raw, *parts)
            if each:  # in turn
                answered.append(pool.submit(client.send, "/v1/deblur", "image", *each))
    for name, (_, status, word) in bad.items():
        answer = refused[name].result()
        assert answer.startswith(f"HTTP/1.1 {status} ".encode()), (name, answer[:200])
        body = answer.partition(b"\r\n\r\n")[2].decode()
        detail = json.loads(body)["detail"] if body.startswith("{") else body
        assert word in detail, name
        assert "/tmp" not in detail
    deblurred = once(Deblurrer(checkpoint))
    for number, ((name, data), answer) in enumerate(zip(fine, answered, strict=True)):
        result = answer.result()
        assert result.status == 200, (name, result.body[:200])
        assert result.body == expected(deblurred, data, tmp_path / str(number)), name
    assert client.get("/healthz").json == {"status": "ready"}
    held = resident(server.process.pid)
    print(f"the server held {before / 1e6:.0f} MB before, {held / 1e6:.0f} MB at most")
    assert held < before + MEMORY
    assert "dmphn_queue 0.0" in client.get("/metrics").body.decode()


def test_it_is_alive_after_and_ends_cleanly(server):
    assert server.client.ask("POST", "/v1/deblur", picture(0)).status == 200
    server.process.send_signal(signal.SIGTERM)
    _, said = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    assert said.endswith("dmphn: stopped\n")
    assert "Traceback" not in said
