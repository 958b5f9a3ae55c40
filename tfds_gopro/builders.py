"""TFDS builders `gopro` and `video_deblurring`, written and read without TensorFlow.

    builder = Gopro(data_dir="D", config="crops", source="GOPRO_Large.zip")
    builder.download_and_prepare()                 # or python -m tfds_gopro.prepare
    builder.as_data_source("train")[0]["blurry"]   # uint8 (512, 512, 3)
    tfds.builder("gopro", data_dir="D")            # works too once this module is imported

Configs: `frames` keeps the image files as they are, `crops` holds raw uint8 tiles of the training
split that need no decoding; `frames_gamma` and `crops_gamma` take GoPro's `blur_gamma` side.
"""

from __future__ import annotations

import tensorflow_datasets as tfds

from dmphn_jax.data import splits
from tfds_gopro import trees
from tfds_gopro.config import PairConfig, pair_config
from tfds_gopro.pair_builder import PairBuilder

__all__ = ["BUILDERS", "Gopro", "PairConfig", "VideoDeblurring", "pair_config"]


class Gopro(PairBuilder):
    """GoPro (GOPRO_Large): 2103 training and 1111 test pairs of 1280x720 frames."""

    name = "gopro"
    FORMAT = "png"
    LAYOUT = "{train,test}/SEQUENCE/{blur,blur_gamma,sharp}/FRAME.png"
    BUILDER_CONFIGS = [  # noqa: RUF012 (as TFDS declares it)
        pair_config("frames"),
        pair_config("crops"),
        pair_config("frames", "blur_gamma"),
        pair_config("crops", "blur_gamma"),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return self._dataset_info(
            description="Blurry frames averaged from 7 to 13 frames of 240 fps video, "
            "and the sharp middle frames.",
            homepage="https://seungjunnah.github.io/Datasets/gopro",
            license="CC BY 4.0; cite Nah et al. 2017",
            citation="""@inproceedings{Nah_2017_CVPR,
  author    = {Nah, Seungjun and Kim, Tae Hyun and Lee, Kyoung Mu},
  title     = {Deep Multi-Scale Convolutional Neural Network for Dynamic Scene Deblurring},
  booktitle = {CVPR},
  year      = {2017}
}""",
        )

    def _find(self, tree: trees.Tree) -> trees.Found:
        return trees.find_gopro(tree, self.builder_config.blur)

    def _missing(self, pairs: splits.Pairs) -> list[str]:
        return splits.missing_gopro(pairs)


class VideoDeblurring(PairBuilder):
    """VideoDeblurring (DVD), quantitative part: 61 training and 10 test videos of 1280x720."""

    name = "video_deblurring"
    FORMAT = "jpeg"
    LAYOUT = "VIDEO/{input,GT}/FRAME.jpg"
    BUILDER_CONFIGS = [pair_config("frames"), pair_config("crops")]  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        return self._dataset_info(
            description="Videos of several cameras at 240 fps, blurred by averaging frames.",
            homepage="https://www.cs.ubc.ca/labs/imager/tr/2017/DeepVideoDeblurring/",
            license="See the homepage for the terms of use",
            citation="""@inproceedings{Su_2017_CVPR,
  author    = {Su, Shuochen and Delbracio, Mauricio and Wang, Jue and Sapiro, Guillermo
               and Heidrich, Wolfgang and Wang, Oliver},
  title     = {Deep Video Deblurring for Hand-Held Cameras},
  booktitle = {CVPR},
  year      = {2017}
}""",
        )

    def _find(self, tree: trees.Tree) -> trees.Found:
        return trees.find_video_deblurring(tree)

    def _missing(self, pairs: splits.Pairs) -> list[str]:
        return splits.missing_video_deblurring(pairs)


BUILDERS = {"gopro": Gopro, "video_deblurring": VideoDeblurring}
