"""Which files are films, and that nothing else is opened."""

import os
import re

import pytest

from tests.support.films import deblur, facts, make_film, pictures, remake
from tests.support.pages import ROOT
from tests.support.scripts import scripts
from tests.support.watching import opened_in

pytest.importorskip("av")

import av

from dmphn_jax.commands.deblur_flags import parser
from dmphn_jax.video.encoding import EXTENSIONS, IN_FOLDERS, WRITABLE, is_film
from dmphn_jax.video.reading import VideoError, open_film


@pytest.mark.parametrize("kind", scripts("", ""))
@pytest.mark.parametrize("name", ["upload", "upload.mp4", "upload.m3u8"])
def test_a_script_is_refused_and_opens_nothing(tmp_path, kind, name):
    """Before, FFmpeg followed it: one that names itself took every file descriptor there was."""
    make_film(tmp_path / "other.ts", pictures(2), sound=None)
    own = tmp_path / name
    own.write_bytes(scripts(name, "other.ts")[kind])
    with opened_in(tmp_path) as opened, pytest.raises(VideoError) as caught:
        open_film(own)
    assert set(opened) == {name}
    assert str(caught.value).startswith(f"{own}: cannot be read as video (")
    assert "\n" not in str(caught.value)


def test_ffmpeg_itself_follows_a_script(tmp_path):
    """Or the test above would show nothing."""
    make_film(tmp_path / "other.mp4", pictures(2), sound=None)
    (tmp_path / "upload").write_bytes(scripts("upload", "other.mp4")["ffconcat"])
    with opened_in(tmp_path) as opened, av.open(str(tmp_path / "upload")):
        pass
    assert set(opened) == {"upload", "other.mp4"}


def test_a_film_that_turns_into_a_script_is_refused(tmp_path):
    """A film that becomes a script while it is made: it is opened once more for its sound."""
    source = make_film(tmp_path / "in.mp4", pictures(2))
    script = scripts("in.mp4", "other.ts")["ffconcat"]

    def swapping(image):
        source.write_bytes(script)
        return image

    failure = deblur(source, tmp_path / "out.mp4", swapping).failure
    assert "no container that is read here" in failure
    assert not (tmp_path / "out.mp4").exists()


ENCODERS = {
    **{".webm": "libvpx-vp9", ".ivf": "libvpx-vp9", ".ogv": "libvpx", ".flv": "flv"},
    **dict.fromkeys((".mpg", ".mpeg", ".vob", ".mxf"), "mpeg2video"),
    **{".wmv": "wmv2", ".asf": "wmv2", ".y4m": "rawvideo", ".dv": "dvvideo", ".nut": "ffv1"},
}
MUXERS = {
    **dict.fromkeys((".mts", ".m2ts", ".m2t"), "mpegts"),
    **{".m4v": "mp4", ".f4v": "mp4", ".wmv": "asf"},
}


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_kind_that_is_named_is_read(tmp_path, extension):
    source = tmp_path / f"a{extension}"
    size = (576, 720) if extension == ".dv" else (48, 64)
    with av.open(str(source), "w", format=MUXERS.get(extension)) as container:
        stream = container.add_stream(ENCODERS.get(extension, "libx264"), rate=25)
        stream.height, stream.width = size
        for image in pictures(12, size):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image)))
        container.mux(stream.encode())
    assert is_film(source)
    assert not deblur(source, tmp_path / "out.mkv").failure
    assert len(facts(tmp_path / "out.mkv").times) == 12


def test_page_and_help_name_the_kinds_that_are_read():
    page = (ROOT / "docs" / "inference.md").read_text()
    told = page[page.index("Films are told by their names.") :].partition("Decoding,")[0]
    written, read = told.partition("only read")[::2]
    kinds, of_folders = read.partition("Of a folder")[::2]
    assert re.findall(r"\.\w+", written) == list(WRITABLE)
    assert {*re.findall(r"\.\w+", written), *re.findall(r"\.\w+", kinds)} == set(EXTENSIONS)
    assert re.findall(r"\.\w+", of_folders) == sorted({*EXTENSIONS} - {*IN_FOLDERS})
    help = parser().format_help()
    told = help[help.index("\nFilms:") :].partition("Sound")[0]
    assert re.findall(r"\.\w+", told) == list(EXTENSIONS)


@pytest.mark.parametrize(
    "name", ["12:30.mp4", "http:a.mp4", "concat:a.mp4", "a b%20'c.mp4", "-.mp4"]
)
def test_a_name_is_a_name(tmp_path, monkeypatch, name):
    """Before, what stood before a colon was a protocol to FFmpeg."""
    monkeypatch.chdir(tmp_path)
    plain = make_film(tmp_path / "plain.mp4", pictures(4))
    os.rename(remake(tmp_path / "cover.mp4", plain, cover=True), name)
    os.mkdir("out")
    for output in (f"out/{name}", f"out:{name[:-4]}.mkv"):
        result = deblur(name, output)
        assert (result.failure, result.notes) == (None, ())
        result = facts(tmp_path / output)
        assert len(result.times) == 4
        assert result.data("audio") == facts(plain).data("audio")
