"""Hostile films: scripts of FFmpeg's that have a reader open files and addresses."""

_DASH = """<?xml version="1.0"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"
 profiles="urn:mpeg:dash:profile:isoff-on-demand:2011">
 <Period><AdaptationSet mimeType="video/mp4"><Representation id="0" bandwidth="1000">
  <BaseURL>{other}</BaseURL></Representation></AdaptationSet></Period></MPD>
"""
_SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"


def scripts(own, other):
    """(kind, bytes) of scripts in a file named `own`, beside a film named `other`."""
    texts = {
        "ffconcat of itself": f"ffconcat version 1.0\nfile '{own}'\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{other}'\n",
        "hls": f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{other}\n#EXT-X-ENDLIST\n",
        "dash": _DASH.format(other=other),
        "sdp": _SDP,
    }
    return {kind: text.encode() for kind, text in texts.items()}
