"""The PyTorch contenders: the twin as the authors ran it, and as PyTorch runs it best.

On a GPU cuDNN may search for its fastest algorithms (`cudnn.benchmark`) in every variant, and
TF32, which PyTorch allows convolutions by default, is off where the name does not say it.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmphn_jax.benchmarking.contender import Contender
from dmphn_jax.benchmarking.counts import cut
from dmphn_jax.benchmarking.peers import VARIANTS, Variant, fitting
from dmphn_jax.benchmarking.timing import Case
from dmphn_jax.benchmarking.torch_twin import Twin, check_family, patch_by_patch, stacked
from dmphn_jax.errors import UserError
from dmphn_jax.models import ModelConfig
from dmphn_jax.runtime import cores
from dmphn_jax.training.optimizer import OptimizerOptions


def inference(
    config: ModelConfig,
    params: dict[str, Any],
    images: np.ndarray,
    *,
    stages: int | None,
    variant: str,
    device: torch.device,
) -> Contender:
    """Returns inference from uint8 to uint8, both on the device, as the JAX contenders do it.

    Args:
      config, params, images, stages: as in `jax_cases.inference`.
      variant: a name of `VARIANTS`.
      device: that computes.
    """
    how = VARIANTS[variant]
    net, run = _network(cut(config, stages), params, how, device)
    net.eval()
    pixels = _placed(images, how, device)

    def raw() -> Tensor:
        with _settings(how, device), torch.inference_mode():
            return run(pixels.float() / 255 - 0.5)[-1].float()

    def start() -> Tensor:
        with torch.inference_mode():
            return ((raw() + 0.5) * 255).round().clamp(0, 255).to(torch.uint8)

    def check() -> dict[str, np.ndarray]:
        return {"image": raw().permute(0, 2, 3, 1).cpu().numpy()}

    return _contender(variant, how, device, start, check)


def training(
    config: ModelConfig,
    params: dict[str, Any],
    blurry: np.ndarray,
    sharp: np.ndarray,
    *,
    variant: str,
    device: torch.device,
) -> Contender:
    """Returns one step of training: forward, sum over stages of MSE, backward, Adam's update.

    The batch lies on the device as float images; no crops are cut and no metrics computed.
    float16 trains with a gradient scaler, as it must.

    Args:
      config, params, blurry, sharp: as in `jax_cases.training`.
      variant: a name of `VARIANTS`.
      device: that computes.
    """
    how = VARIANTS[variant]
    net, run = _network(config, params, how, device)
    net.train()
    x, target = (_placed(side, how, device).float() / 255 - 0.5 for side in (blurry, sharp))
    adam = OptimizerOptions()
    optimizer = torch.optim.Adam(
        net.parameters(),
        lr=adam.learning_rate,
        betas=(adam.beta1, adam.beta2),
        eps=adam.epsilon,
    )
    # Its usual first scale, 2^16, may overflow in the first steps, which it would then skip.
    scaler = torch.amp.GradScaler(
        device.type, init_scale=2.0**10, enabled=how.precision == "float16"
    )

    def start() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        with _settings(how, device):
            outputs = run(x)
            loss = sum(torch.nn.functional.mse_loss(image.float(), target) for image in outputs)
        with _settings(dataclasses.replace(how, precision=_backward(how.precision)), device):
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    def check() -> dict[str, np.ndarray]:
        loss = start()  # leaves the gradients behind, the scaler's factor taken out
        norms = torch.stack([p.grad.norm() for p in net.parameters()])
        numbers = {"loss": loss, "gradient norm": norms.norm()}
        return {name: value.reshape(1).cpu().numpy() for name, value in numbers.items()}

    return _contender(variant, how, device, start, check)


def _backward(precision: str) -> str:
    """The backward pass runs outside autocast, in the dtypes of the forward pass."""
    return precision if precision in ("float32", "tf32") else "float32"


def _network(
    config: ModelConfig, params: dict[str, Any], how: Variant, device: torch.device
) -> tuple[Twin, Callable[[Tensor], list[Tensor]]]:
    """Returns the twin with its weights, and what to call."""
    prepare()
    net = Twin(config, stacked if how.channels_last else patch_by_patch).load(params).to(device)
    if how.channels_last:
        net = net.to(memory_format=torch.channels_last)
    if how.peer != "torch-compile":
        return net, net
    torch._dynamo.reset()  # what earlier variants compiled counts against its limit
    return net, torch.compile(net)


def _placed(images: np.ndarray, how: Variant, device: torch.device) -> Tensor:
    """Returns (B, H, W, 3) images as a (B, 3, H, W) tensor in the variant's layout."""
    x = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    return x.contiguous(memory_format=layout)


def _contender(
    variant: str,
    how: Variant,
    device: torch.device,
    start: Callable[[], Tensor],
    check: Callable[[], dict[str, np.ndarray]],
) -> Contender:
    on_gpu = device.type == "cuda"
    return Contender(
        library="torch",
        variant=variant,
        precision=how.precision,
        case=Case(
            f"torch {variant}",
            start,
            (lambda _: torch.cuda.synchronize(device)) if on_gpu else (lambda _: None),
        ),
        check=check,
        memory=(lambda: _peak(start, device)) if on_gpu else (lambda: None),
    )


def _peak(start: Callable[[], Tensor], device: torch.device) -> dict[str, Any]:
    """Returns the peak of PyTorch's allocator over one run, made for this alone.

    Like a JAX device's peak it includes what the group's other PyTorch contenders hold.
    """
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    start()
    torch.cuda.synchronize(device)
    return {"bytes": torch.cuda.max_memory_allocated(device), "source": "torch"}


@contextlib.contextmanager
def _settings(how: Variant, device: torch.device):
    """Sets what a variant computes in, and sets it back."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = how.precision == "tf32"
    try:
        if how.precision in ("bfloat16", "float16"):
            with torch.autocast(device.type, dtype=getattr(torch, how.precision)):
                yield
        else:
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def matmul_case(size: int, dtype: str, device: torch.device) -> Case:
    """Returns a square matrix product of PyTorch's, for the ceilings; float32 without TF32."""
    prepare()
    a = torch.randn(size, size, device=device).to(getattr(torch, dtype))
    wait = (lambda _: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda _: None
    return Case(f"torch {dtype}", lambda: a @ a, wait)


def prepare() -> None:
    """Gives PyTorch every core this process may use, and lets cuDNN search."""
    torch.set_num_threads(cores())
    torch.backends.cudnn.benchmark = True


def competitors(
    device: Any, used: Sequence[str], models: Sequence[ModelConfig], asked: Sequence[str]
) -> tuple[Any, list[str]]:
    """Returns PyTorch's device, the same as JAX's, and the variants of the peers to run.

    Args:
      device: JAX's.
      used: the peers.
      models: that they are to run.
      asked: variants of PyTorch; empty: those that fit.

    Raises UserError for a model without a twin, a device that PyTorch has not, and variants of
    another platform or of a peer that is not among them.
    """
    for model in models:
        check_family(model)
    on_gpu = device.platform == "gpu"
    if on_gpu and not torch.cuda.is_available():
        raise UserError("--vs: JAX computes on a GPU that this PyTorch cannot use")
    if device.platform not in ("cpu", "gpu"):
        raise UserError(f"--vs compares on a CPU or a GPU, not on {device.platform}")
    for name in asked:
        if device.platform not in VARIANTS[name].platforms:
            raise UserError(f"--torch-variants {name}: needs a {'C' if on_gpu else 'G'}PU")
        if VARIANTS[name].peer not in used:
            raise UserError(f"--torch-variants {name}: needs --vs {VARIANTS[name].peer}")
    prepare()
    fit = fitting(used, device.platform)
    if asked:
        fit = [*asked] + [name for name in fit if VARIANTS[name].library != "torch"]
    return torch.device("cuda" if on_gpu else "cpu"), fit
