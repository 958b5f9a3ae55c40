import json

import pytest

from dmphn_jax.errors import UserError
from dmphn_jax.evaluation import report
from tests.support.evaluation import as_report, row


def test_equal_images_make_a_report_that_json_can_hold(tmp_path):
    text = report.to_json(as_report([row("same", {"a": float("inf")})]))
    assert json.loads(text, parse_constant=pytest.fail)["rows"][0]["psnr"] is None
    (tmp_path / "report.json").write_text(text)
    assert report.read(tmp_path).rows[0].label == "same"


@pytest.mark.parametrize("content", [None, "{", "[]", '{"rows": 1}', '{"rows": [], "format": 99}'])
def test_what_is_no_report_is_one_line(tmp_path, content):
    if content is not None:
        (tmp_path / "report.json").write_text(content)
    with pytest.raises(UserError, match=r"report\.json: "):
        report.read(tmp_path)
