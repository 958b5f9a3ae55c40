"""What several tests of the launchers share."""

from __future__ import annotations

import subprocess

import pytest

from tests.support.cloud_tpu import answering
from tests.support.stand_ins import ROOT, StandIns


@pytest.fixture
def cloud(tmp_path):
    """A stand-in for gcloud with a slice of four hosts, on which all goes well."""
    if subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True).returncode:
        pytest.skip("no git checkout: what the hosts get is a commit")
    cloud = StandIns(tmp_path, "gcloud")
    answering(cloud, slices=1)
    return cloud
