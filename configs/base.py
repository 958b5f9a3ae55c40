"""What every experiment shares: the paper's recipe for a single model (Sec. 3.5).

A config file begins with `start_from("configs/base.py:MODEL")` and changes what it is about.
Every field can be overridden on the command line: `--config.batch_size=12
--config.optimizer.learning_rate=2e-4`.
"""

import ml_collections


def get_config(model: str = "dmphn_1_2_4") -> ml_collections.ConfigDict:
    """Returns the paper's recipe for `model`, a name that `dmphn models` lists."""
    config = ml_collections.ConfigDict()
    config.seed = 0  # initial weights, order of the pairs, crops, augmentation

    # Model
    config.model = ml_collections.ConfigDict()
    config.model.name = model
    config.model.width = 32  # channels at full resolution
    config.model.global_skip = False  # output = input + network (not in the paper)
    config.compute_dtype = "float32"  # or "bfloat16", or a GPU's "tf32"; parameters stay float32
    # The platform's convolutions; or "xla", "folded", "cudnn", "cudnn-blocks"
    config.layout = "auto"
    config.remat = False  # recompute activations in the backward pass: less memory, more time
    config.init_from = ""  # start from these weights: a checkpoint folder, or stack2
    config.init_missing = "last"  # stages it lacks: copies of its "last" stage, or "random"

    # Data
    config.data = ml_collections.ConfigDict()
    # "gopro", "video_deblurring", "synthetic", a folder or list of pairs, or "folder": data_dir
    config.data.source = "gopro"
    config.data.data_dir = "data"  # where the datasets are prepared
    config.data.feed = "auto"  # "host", "resident" (in device memory), or "auto": what fits
    config.data.blur = "blur"  # gopro's blurry side; or "blur_gamma"
    config.data.records = ""  # prepared config to read; "": raw tiles (host feed) or frames
    config.data.size = (360, 640)  # synthetic: height and width of a scene
    config.data.count = 2000  # synthetic: number of scenes
    config.data.motion = 1.0  # synthetic: factor on the length of all motion
    config.data.threads = 0  # host feed: readers; 0: its own choice
    config.data.prefetch = 0  # host feed: pairs read ahead; 0: its own choice
    config.crop_size = 256
    config.batch_size = 6  # pairs per step over all devices
    config.augment = "none"  # "none", "stack" (the paper's stacks) or "modern"

    # Loss: summed over the stages (Eq. 11)
    config.loss = ml_collections.ConfigDict()
    config.loss.name = "mse"  # or "charbonnier", "l1", "l1_fft"
    config.loss.levels = False  # supervise every level's output, not only level 1's

    # Optimiser: Adam, 1e-4, times 0.1 every 1000 epochs
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam"  # or "adamw"
    config.optimizer.learning_rate = 1e-4
    config.optimizer.schedule = "step"  # or "cosine", "constant"
    config.optimizer.decay_factor = 0.1
    config.optimizer.decay_epochs = 1000
    config.optimizer.warmup_steps = 0
    config.optimizer.final_fraction = 0.0  # cosine: last learning rate over the highest
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.999
    config.optimizer.epsilon = 1e-8
    config.optimizer.weight_decay = 0.0  # adamw
    config.optimizer.clip_norm = 0.0  # 0: gradients are not clipped
    config.optimizer.accumulate_steps = 1  # steps whose mean gradient makes one update
    config.ema_decay = 0.0  # 0: no moving average of the weights

    # Length
    config.num_epochs = 3000
    config.num_steps = 0  # 0: num_epochs says it
    config.steps_per_dispatch = 10  # steps per call of the compiled program; a CPU takes 1

    # What a run writes
    config.checkpoint_every = 2000  # steps
    config.keep_checkpoints = 3  # newest ones kept, beside the best
    config.log_every = 100  # steps
    config.eval = ml_collections.ConfigDict()
    config.eval.every = 20000  # steps between evaluations; 0: never
    config.eval.source = ""  # "": the test split of data.source
    config.eval.count = 32  # pairs of it, evenly spread; 0: all (synthetic: 32)
    config.eval.pictures = 2  # of them as blurry/output/sharp in TensorBoard
    return config
