"""Which pairs an evaluation scores: the one choice for runs, `--mode evaluate` and the command."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from dmphn_jax.data.base import PairSource
from dmphn_jax.data.options import SourceOptions
from dmphn_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class PairSelection:
    """Where the pairs come from, and which of them are scored.

    Attributes:
      source: a name or path that `data.open_source` knows.
      split: 'test' or 'train'.
      options: of the source.
      su_frames: of VideoDeblurring the 30 frames per video that Su et al. score, not all.
      limit: score so many pairs only, spread evenly over the set; None for all.
    """

    source: str
    split: str = "test"
    options: SourceOptions = SourceOptions()  # noqa: RUF009 (frozen)
    su_frames: bool = False
    limit: int | None = None

    def open(self) -> PairSource:
        """Opens the pairs; raises UserError where there are none."""
        from dmphn_jax.data import open_source

        source = open_source(self.source, self.split, self.options)
        if not len(source):
            raise UserError(f"{self.name}, split {self.split}: there are no pairs")
        return source

    def indices(self, names: Sequence[str]) -> list[int]:
        """Returns the positions, among the `names` of a source, of the pairs to score."""
        chosen = su_frames_of(names) if self.su_frames else list(range(len(names)))
        return [chosen[i] for i in spread(len(chosen), self.limit)]

    @property
    def name(self) -> str:
        """The name or path of what is opened."""
        return str(self.options.data_dir) if self.source == "folder" else self.source

    def described(self) -> dict[str, str | int | float | tuple[int, int]]:
        """Returns the options that the pairs depend on, where they are not the default's."""
        names = ("size", "count", "seed", "motion") if self.source == "synthetic" else ("blur",)
        values = {name: getattr(self.options, name) for name in names}
        return {name: v for name, v in values.items() if v != getattr(SourceOptions, name)}

    def identity(self) -> dict[str, str | int | float | tuple[int, int]]:
        """Returns what kept results belong to; of a folder its full path, wherever one stands."""
        where = Path(self.name).expanduser()
        name = str(where.resolve()) if where.exists() else self.name
        return {"name": name, "split": self.split, **self.described()}

    def are_those_of(self, name: str, split: str, options: Mapping[str, object]) -> bool:
        """Tells whether a report whose pairs are so described is one on these pairs."""
        given = {n: v for n, v in options.items() if v != getattr(SourceOptions, n, None)}
        same = name == self.name or Path(name).resolve() == Path(self.name).resolve()
        return same and (split, given) == (self.split, self.described())


def spread(count: int, limit: int | None) -> list[int]:
    """Returns `limit` indices spread evenly over range(count); all where there is no limit."""
    if limit is None or limit >= count:
        return list(range(count))
    return [i * count // limit for i in range(limit)]


def su_frames_of(names: Sequence[str]) -> list[int]:
    """Returns the indices of the frames that Su et al. score, 30 of each video of 100."""
    from dmphn_jax.data.splits import video_deblurring_scored_frames

    videos: dict[str, list[int]] = {}
    for index, name in sorted(enumerate(names), key=lambda item: item[1]):
        videos.setdefault(name.rpartition("/")[0], []).append(index)
    return sorted(
        frames[position]
        for frames in videos.values()
        for position in video_deblurring_scored_frames(len(frames))
    )
