"""Scores of images and what is made of them. No jax."""

from __future__ import annotations

import collections
import dataclasses
import statistics
from collections.abc import Sequence

# What is kept of an image, in this order; `metrics.all_metrics` computes them.
METRIC_NAMES = ("psnr", "ssim_matlab", "ssim_skimage")

Scores = dict[str, float]  # name of the metric -> value


@dataclasses.dataclass(frozen=True)
class ImageScores:
    """The metrics of one image; `name` is `sequence/frame`."""

    index: int
    name: str
    height: int
    width: int
    scores: Scores

    @property
    def video(self) -> str:
        """The image's sequence, empty where its name has none."""
        return self.name.rpartition("/")[0]


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Median milliseconds of one image of (height, width) on a kind of device."""

    ms: float
    height: int
    width: int
    device: str = ""


@dataclasses.dataclass(frozen=True)
class EvaluationResult:
    """Scores of a method on a set of pairs.

    Attributes:
      images: in the order of the source.
      failures: one line per pair that could not be scored.
      images_per_second: pairs read, deblurred and scored per second, compilation left out;
        None if no size came twice.
    """

    images: Sequence[ImageScores]
    failures: Sequence[str] = ()
    images_per_second: float | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def mean(self) -> Scores:
        """Means over all images; nan where there is no image."""
        return _mean(self.images)

    @property
    def videos(self) -> dict[str, Scores]:
        """Means of every sequence, in the order of the source."""
        groups: dict[str, list[ImageScores]] = {}
        for image in self.images:
            groups.setdefault(image.video, []).append(image)
        return {video: _mean(images) for video, images in groups.items()}

    @property
    def video_mean(self) -> Scores:
        """Means over the sequences' means, as Table 3 averages."""
        videos = list(self.videos.values()) or [self.mean]
        return {name: statistics.fmean(video[name] for video in videos) for name in videos[0]}

    @property
    def commonest_size(self) -> tuple[int, int] | None:
        """(height, width) of most images."""
        sizes = collections.Counter((image.height, image.width) for image in self.images)
        return sizes.most_common(1)[0][0] if sizes else None


def _mean(images: Sequence[ImageScores]) -> Scores:
    if not images:
        return dict.fromkeys(METRIC_NAMES, float("nan"))
    return {name: statistics.fmean(image.scores[name] for image in images) for name in METRIC_NAMES}
