"""Which files are films, and that nothing else is opened."""

import os

import pytest

from tests.support.films import deblur, facts, make_film, pictures, remake
from tests.support.scripts import scripts
from tests.support.watching import opened_in

pytest.importorskip("av")

import av

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
