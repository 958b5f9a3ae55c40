"""The networks once more, in NumPy, patch by patch, straight from the paper's equations.

Nothing is shared with the package: the patch grids, the transposed convolution (scattered, as it
is defined) and the order of the additions are written out here. Images are (H, W, 3).
"""

from __future__ import annotations

import numpy as np

GRIDS = {"1": (1, 1), "2": (2, 1), "4": (2, 2), "8": (4, 2), "16": (4, 4)}


def conv(x, p, stride=1):
    """3x3, a border of one zero."""
    kernel, bias = np.asarray(p["kernel"], np.float64), np.asarray(p["bias"], np.float64)
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    h, w = -(-x.shape[0] // stride), -(-x.shape[1] // stride)
    y = np.zeros((h, w, kernel.shape[-1])) + bias
    for i in range(3):
        for j in range(3):
            y += padded[i : i + stride * h : stride, j : j + stride * w : stride] @ kernel[i, j]
    return y


def conv_transposed(x, p):
    """4x4, stride 2, one pixel cut off all around: every input pixel adds a 4x4 stamp."""
    kernel, bias = np.asarray(p["kernel"], np.float64), np.asarray(p["bias"], np.float64)
    h, w, _ = x.shape
    y = np.zeros((2 * h + 2, 2 * w + 2, kernel.shape[-1]))
    for i in range(4):
        for j in range(4):
            # The stored kernel is that of a correlation: PyTorch's, turned by half a turn.
            y[i : i + 2 * h : 2, j : j + 2 * w : 2] += x @ kernel[3 - i, 3 - j]
    return y[1:-1, 1:-1] + bias


def block(x, p):
    return x + conv(np.maximum(conv(x, p["conv_1"]), 0), p["conv_2"])


def encode(x, p):
    x = block(block(conv(x, p["conv_1"]), p["block_1"]), p["block_2"])
    x = block(block(conv(x, p["conv_2"], 2), p["block_3"]), p["block_4"])
    return block(block(conv(x, p["conv_3"], 2), p["block_5"]), p["block_6"])


def decode(x, p):
    x = block(block(x, p["block_1"]), p["block_2"])
    x = block(block(conv_transposed(x, p["up_1"]), p["block_3"]), p["block_4"])
    x = block(block(conv_transposed(x, p["up_2"]), p["block_5"]), p["block_6"])
    return conv(x, p["conv"])


def patchwise(function, x, patches):
    """Applies `function` to every patch of x and puts the results where the patches were."""
    rows, columns = GRIDS[patches]
    h, w = x.shape[0] // rows, x.shape[1] // columns
    return np.concatenate(
        [
            np.concatenate(
                [function(x[r * h : (r + 1) * h, c * w : (c + 1) * w]) for c in range(columns)],
                axis=1,
            )
            for r in range(rows)
        ],
        axis=0,
    )


def dmphn(image, params, hierarchy, features=None, first=None):
    """Returns ([S_1, S_2, ..], [F_1, F_2, ..])."""
    parts = hierarchy.split("-")
    images, encoded = {}, {}
    for level in range(len(parts), 0, -1):
        p = params.get("shared") or params[f"level_{level}"]
        f = patchwise(
            lambda x, p=p: encode(x, p["encoder"]),
            image + images.get(level + 1, 0),
            parts[level - 1],
        )
        f = f + encoded.get(level + 1, 0) + (features[level - 1] if features else 0)
        coarser = parts[level - 2] if level > 1 else "1"
        images[level] = patchwise(lambda x, p=p: decode(x, p["decoder"]), f, coarser)
        if level == 2 and first is not None:
            images[level] = images[level] + first
        encoded[level] = f
    return [images[k] for k in sorted(images)], [encoded[k] for k in sorted(encoded)]


def vmphn(image, params, hierarchy, features=None, first=None):
    """Returns (ascending images [S_1, ..], features of all visits in order)."""
    parts = hierarchy.split("-")
    s, f, down, up, visited = 0, 0, {}, {}, []
    for level in range(1, len(parts) + 1):
        p = params[f"descending_level_{level}"]
        e = patchwise(lambda x, p=p: encode(x, p["encoder"]), image + s, parts[level - 1])
        f = e + f + (features[len(visited)] if features else 0)
        s = patchwise(lambda x, p=p: decode(x, p["decoder"]), f, parts[level - 1])
        down[level] = f
        visited.append(f)
    for level in range(len(parts), 0, -1):
        p = params[f"ascending_level_{level}"]
        e = patchwise(lambda x, p=p: encode(x, p["encoder"]), image + s, parts[level - 1])
        f = e + f + down[level] + (features[len(visited)] if features else 0)
        coarser = parts[level - 2] if level > 1 else "1"
        s = patchwise(lambda x, p=p: decode(x, p["decoder"]), f, coarser)
        if level == 2 and first is not None:
            s = s + first
        up[level] = s
        visited.append(f)
    return [up[k] for k in sorted(up)], visited


def stack(unit, image, params, hierarchy):
    """Returns every stage's level images: a list over stages of lists, level 1 first."""
    results, features, first = [], None, None
    for stage in range(1, len(params) + 1):
        images, features = unit(image, params[f"stage_{stage}"], hierarchy, features, first)
        image = images[0]
        first = image if first is None else first
        results.append(images)
    return results
