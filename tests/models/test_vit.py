"""Vision transformers against torch's own layers, and TS-CAM against loops from its paper."""

import math
import re

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from vit_helpers import copy_attention, copy_block, learn_quarters, lit_quarters, randomize

from auheat.errors import AuheatError
from auheat.losses import total_loss
from auheat.models import ts_cam, vit
from auheat.models.output import attention
from auheat.models.ts_cam import TsCam, build_ts_cam, load_ts_cam_weights
from auheat.models.vit import VITS, Attention, Block, VitShape, resize_positions

TINY = VitShape(8, 3, 2, patch=4, image=12)

pytestmark = pytest.mark.usefixtures("one_thread")


def published_shapes(width, depth, classes=1000, patch=16, positions=197):
    """Names and shapes of timm's vision transformers, written from their layout."""
    linear = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (classes, width),
        "head.bias": (classes,),
    }
    for i in range(depth):
        for name, shape in linear.items():
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
        for norm in ("norm1", "norm2"):
            shapes[f"blocks.{i}.{norm}.weight"] = shapes[f"blocks.{i}.{norm}.bias"] = (width,)
    return shapes


@pytest.mark.parametrize(
    ("name", "width", "parameters"),
    [("deit-small", 384, 22_050_664), ("deit-tiny", 192, 5_717_416)],
)
def test_names_shapes_and_parameter_count_are_the_published_ones(name, width, parameters):
    expected = published_shapes(width, 12)
    assert sum(math.prod(shape) for shape in expected.values()) == parameters
    with torch.device("meta"):
        own = {k: tuple(v.shape) for k, v in build_ts_cam(name, 1000).state_dict().items()}
    assert own.pop("head.weight") == (1000, width, 3, 3)  # TS-CAM's own classifier
    del expected["head.weight"]
    assert own == expected


def reference_stages(model, images):
    """The tokens after each block by torch's own layers, the last one normalised."""
    width, patch = model.pos_embed.shape[2], model.patch_embed.patch
    weight = model.patch_embed.proj.weight.reshape(width, -1)
    patches = F.unfold(images, patch, stride=patch).mT @ weight.T + model.patch_embed.proj.bias
    first = model.cls_token.repeat(len(images), 1, 1)
    stages = [torch.cat([first, patches], 1) + model.pos_embed]
    for block in model.blocks:
        stages.append(copy_block(block)(stages[-1]))
    stages[-1] = F.layer_norm(stages[-1], (width,), model.norm.weight, model.norm.bias, 1e-6)
    return stages


def compare_with_torch(model, images):
    """Tokens after every block, and the class token's attention in it."""
    stages, rows, _ = model.forward_features(images)
    expected = reference_stages(model, images)
    torch.testing.assert_close(stages, expected, rtol=1e-4, atol=1e-5)
    for block, before, scores in zip(model.blocks, expected[:-1], rows, strict=True):
        normed = F.layer_norm(before, before.shape[2:], block.norm1.weight, block.norm1.bias, 1e-6)
        _, weights = copy_attention(block.attn)(
            normed, normed, normed, need_weights=True, average_attn_weights=False
        )
        torch.testing.assert_close(scores.softmax(-1), weights[:, :, 0], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@torch.no_grad()
def test_full_size_forward_equals_torchs_encoder_layers():
    torch.manual_seed(0)
    compare_with_torch(build_ts_cam("deit-small", 7), torch.randn(1, 3, 224, 224))


def small_case():
    return randomize(TsCam(TINY, 3)), torch.randn(
        2, 3, 12, 12, generator=torch.Generator().manual_seed(1)
    )


@torch.no_grad()
def test_small_forward_equals_torchs_encoder_layers():
    compare_with_torch(*small_case())


def norms_last(self, tokens):
    mixed, scores = self.attn(tokens)
    return self.norm1(tokens + mixed), scores


def other_row(self, tokens):
    b, n, width = tokens.shape
    q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    weights = q @ k.mT / math.sqrt(q.shape[-1])
    mixed = (weights.softmax(-1) @ v).transpose(1, 2).reshape(b, n, width)
    return self.proj(mixed), weights[:, :, 1]


def wrong_axis(self, tokens):
    b, n, width = tokens.shape
    q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    weights = q @ k.mT / math.sqrt(q.shape[-1])
    mixed = (weights.softmax(-2) @ v).transpose(1, 2).reshape(b, n, width)
    return self.proj(mixed), weights[:, :, 0]


def unscaled(self, tokens):
    b, n, width = tokens.shape
    q, k, v = self.qkv(tokens).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
    weights = q @ k.mT
    mixed = (weights.softmax(-1) @ v).transpose(1, 2).reshape(b, n, width)
    return self.proj(mixed), weights[:, :, 0]


def heads_mixed_up(self, tokens):
    b, n, width = tokens.shape
    q, k, v = self.qkv(tokens).reshape(b, n, self.heads, 3, -1).permute(3, 0, 2, 1, 4)
    weights = q @ k.mT / math.sqrt(q.shape[-1])
    mixed = (weights.softmax(-1) @ v).transpose(1, 2).reshape(b, n, width)
    return self.proj(mixed), weights[:, :, 0]


FORWARD_MUTANTS = {
    "norms last": (Block, "attention_residual", norms_last),
    "no second residual": (Block, "mlp_residual", lambda self, x: self.mlp(self.norm2(x))),
    "another row": (Attention, "forward", other_row),
    "softmax over queries": (Attention, "forward", wrong_axis),
    "not divided by sqrt(d)": (Attention, "forward", unscaled),
    "heads and q, k, v exchanged": (Attention, "forward", heads_mixed_up),
    "patches along columns": (
        vit,
        "to_tokens",
        lambda features: features.mT.flatten(2).mT,
    ),
    "no positions": (vit, "resize_positions", lambda p, grid: torch.zeros_like(p)),
}


@pytest.mark.parametrize("mutant", FORWARD_MUTANTS)
@torch.no_grad()
def test_a_wrong_forward_does_not_equal_torchs(mutant, monkeypatch):
    model, images = small_case()
    monkeypatch.setattr(*FORWARD_MUTANTS[mutant])
    with pytest.raises(AssertionError):
        compare_with_torch(model, images)


def softmax_by_hand(values):
    e = np.exp(values - values.max())
    return e / e.sum()


def ts_cam_by_hand(model, image):
    """Logits (K,) and maps (K, h, w) of one photo, in loops, from torch's own token values."""
    stages = [s[0].numpy() for s in reference_stages(model, image[None])]
    side = math.isqrt(len(stages[0]) - 1)
    agnostic = np.zeros((side, side))
    for block, z in zip(model.blocks, stages, strict=False):
        p = {k: v.numpy() for k, v in block.state_dict().items()}
        heads, width = block.attn.heads, z.shape[1]
        d = width // heads
        x = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 1e-6)
        x = x * p["norm1.weight"] + p["norm1.bias"]
        weights, bias = p["attn.qkv.weight"], p["attn.qkv.bias"]
        rows = []
        for h in range(heads):
            at_q = slice(h * d, (h + 1) * d)
            at_k = slice(width + h * d, width + (h + 1) * d)
            query = weights[at_q] @ x[0] + bias[at_q]
            keys = [weights[at_k] @ token + bias[at_k] for token in x]
            rows.append(softmax_by_hand(np.array([query @ key for key in keys]) / math.sqrt(d)))
        for i in range(side):
            for j in range(side):
                n = 1 + i * side + j  # the class token stands before the patches
                agnostic[i, j] += sum(row[n] for row in rows) / heads
    kernel, shift = model.head.weight.numpy(), model.head.bias.numpy()
    semantic = np.zeros((len(kernel), side, side))
    for c, i, j in np.ndindex(semantic.shape):
        semantic[c, i, j] = shift[c]
        for di, dj in np.ndindex(3, 3):
            y, x = i + di - 1, j + dj - 1
            if 0 <= y < side and 0 <= x < side:
                semantic[c, i, j] += kernel[c, :, di, dj] @ stages[-1][1 + y * side + x]
    return semantic.mean((1, 2)), semantic * agnostic


def compare_ts_cam(model, images):
    output = model(images)
    for i, image in enumerate(images):
        logits, maps = ts_cam_by_hand(model, image)
        np.testing.assert_allclose(output.logits[i].numpy(), logits, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(output.maps[i].numpy(), maps, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_ts_cam_logits_and_maps_equal_loops_from_the_paper():
    compare_ts_cam(*small_case())


def rows_of(reduce, axis=-1, cut=slice(1, None)):
    def mutant(rows, grid):
        layers = torch.stack([r.softmax(axis).mean(1)[:, cut] for r in rows])
        return reduce(layers).reshape(-1, *grid)

    return mutant


TS_CAM_MUTANTS = {
    "the row of another token": (Attention, "forward", other_row),
    "averaged over layers": (ts_cam, "sum_attention", rows_of(lambda a: a.mean(0))),
    "the last layer alone": (ts_cam, "sum_attention", rows_of(lambda a: a[-1])),
    "softmax over heads": (ts_cam, "sum_attention", rows_of(lambda a: a.sum(0), 1)),
    "the class token's entry taken for a patch": (
        ts_cam,
        "sum_attention",
        rows_of(lambda a: a.sum(0), cut=slice(0, -1)),
    ),
    "added, not multiplied": (ts_cam, "couple", lambda s, a: s + a[:, None]),
    "semantic maps alone": (ts_cam, "couple", lambda s, a: s),
    "the grid turned": (
        ts_cam,
        "to_map",
        lambda tokens, grid: tokens.mT.reshape(len(tokens), -1, *grid).mT,
    ),
}


@pytest.mark.parametrize("mutant", TS_CAM_MUTANTS)
@torch.no_grad()
def test_a_wrong_ts_cam_does_not_equal_the_loops(mutant, monkeypatch):
    model, images = small_case()
    monkeypatch.setattr(*TS_CAM_MUTANTS[mutant])
    with pytest.raises(AssertionError):
        compare_ts_cam(model, images)


@torch.no_grad()
def test_features_are_the_patch_tokens_of_five_depths():
    model, images = randomize(TsCam(VitShape(8, 8, 2, patch=4, image=12), 3)), small_case()[1]
    features = model(images).features
    stages = reference_stages(model, images)
    assert len(features) == 5
    for feature, stage in zip(features, stages[::2], strict=True):
        for i in range(3):
            torch.testing.assert_close(
                feature[:, :, i], stage[:, 1 + 3 * i : 4 + 3 * i].mT, rtol=1e-4, atol=1e-5
            )
    assert (features[-1] < 0).any()
    assert (features[-1] > 0).any()


def test_positions_for_the_same_grid_are_untouched():
    positions = torch.randn(1, 1 + 14 * 14, 6)
    assert resize_positions(positions, (14, 14)) is positions


@pytest.mark.parametrize("grid", [(7, 7), (20, 20), (12, 9)])
def test_positions_for_another_grid_equal_pillows_bicubic(grid):
    positions = torch.randn(1, 1 + 14 * 14, 3, generator=torch.Generator().manual_seed(0))
    resized = resize_positions(positions, grid)
    assert torch.equal(resized[:, :1], positions[:, :1])
    for channel in range(3):
        plane = Image.fromarray(positions[0, 1:, channel].reshape(14, 14).numpy())
        expected = np.asarray(plane.resize(grid[::-1], Image.Resampling.BICUBIC))
        got = resized[0, 1:, channel].reshape(grid)
        np.testing.assert_allclose(got, expected, atol=1e-5)


@torch.no_grad()
def test_pictures_of_other_sizes_are_taken_and_odd_ones_refused():
    model = build_ts_cam("thin-vit", 3)
    assert model(torch.rand(1, 3, 96, 96)).maps.shape == (1, 3, 12, 12)
    assert model(torch.rand(1, 3, 64, 48)).maps.shape == (1, 3, 8, 6)
    with pytest.raises(AuheatError, match="--image-size: 96 x 100 .*multiples of 8"):
        model(torch.rand(1, 3, 96, 100))


@torch.no_grad()
def test_the_thin_networks_stem_is_two_convolutions_for_each_halving():
    model = randomize(build_ts_cam("thin-vit", 3))
    state, x = model.patch_embed.state_dict(), torch.randn(2, 3, 48, 40)
    *pairs, last = sorted({int(key.split(".")[1]) for key in state})
    got = model.patch_embed(x)
    for conv, norm in zip(pairs[::2], pairs[1::2], strict=True):
        own = {k: state[f"proj.{norm}.{k}"] for k in ("running_mean", "running_var", "weight")}
        stride = 2 if conv % 6 == 0 else 1  # modules are numbered: conv, norm, ReLU, and again
        x = F.conv2d(x, state[f"proj.{conv}.weight"], stride=stride, padding=1)
        x = (x - own["running_mean"].view(-1, 1, 1)) / (own["running_var"] + 1e-5).sqrt().view(
            -1, 1, 1
        )
        x = x * own["weight"].view(-1, 1, 1) + state[f"proj.{norm}.bias"].view(-1, 1, 1)
        x = x.clamp(min=0)
    x = torch.einsum("bchw,dc->bdhw", x, state[f"proj.{last}.weight"][:, :, 0, 0])
    x = x + state[f"proj.{last}.bias"].view(-1, 1, 1)
    assert got.shape == (2, model.pos_embed.shape[2], 6, 5)
    torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-5)


def test_only_the_thin_network_has_a_stem_and_its_patch_is_the_stems_stride():
    assert {name for name, shape in VITS.items() if shape.stem} == {"thin-vit"}
    assert VITS["thin-vit"].patch == 2 ** len(VITS["thin-vit"].stem)


def test_unknown_backbone_names_the_known_ones():
    with pytest.raises(AuheatError, match="deit-small, deit-tiny, thin-vit"):
        build_ts_cam("resnet50", 3)
    assert set(VITS) == {"deit-small", "deit-tiny", "thin-vit"}


@pytest.mark.slow
def test_full_size_model_takes_a_step_and_is_evaluated_at_224_px():
    torch.manual_seed(0)
    model = build_ts_cam("deit-small", 7)
    images, labels, heatmaps = lit_quarters(1, 224, 7)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-5)
    output = model(images, labels)
    total_loss(output, labels, heatmaps, torch.ones(1).bool(), 4.0).total.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    with torch.inference_mode():
        output = model.eval()(images)
    assert output.logits.shape == (1, 7)
    assert output.maps.shape == (1, 7, 14, 14)
    assert [f.shape for f in output.features] == [(1, 384, 14, 14)] * 5
    assert torch.isfinite(output.maps).all()


@pytest.mark.parametrize("au_weight", [0.0, 4.0])
def test_gradients_reach_every_parameter(au_weight):
    torch.manual_seed(0)
    model = build_ts_cam("thin-vit", 4)
    images, labels, heatmaps = lit_quarters(4, 96, 4)
    output = model(images, labels)
    total_loss(output, labels, heatmaps, torch.ones(4).bool(), au_weight).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_loss_of_the_maps_reaches_the_attention_and_the_semantic_head():
    """As the class maps' loss does; the paper's own leaves them alone."""
    model = build_ts_cam("thin-vit", 4)
    model(torch.rand(1, 3, 96, 96)).maps.square().sum().backward()
    assert model.head.weight.grad.abs().sum() > 0
    assert model.blocks[-1].attn.qkv.weight.grad.abs().sum() > 0


@torch.inference_mode()
def test_a_photos_answer_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    model, images = build_ts_cam("thin-vit", 4).eval(), torch.randn(5, 3, 96, 96)
    batch = model(images)
    for i in range(5):
        alone = model(images[i : i + 1])
        torch.testing.assert_close(alone.logits[0], batch.logits[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.maps[0], batch.maps[i], rtol=0, atol=1e-5)
        for one, many in zip(alone.features, batch.features, strict=True):
            torch.testing.assert_close(one[0], many[i], rtol=0, atol=1e-5)


def test_half_precision_stays_near_single_precision():
    torch.manual_seed(0)
    model = build_ts_cam("thin-vit", 4)
    images, labels, heatmaps = lit_quarters(4, 96, 4)
    with torch.inference_mode():
        full = model(images)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images)
        loss = total_loss(half, labels, heatmaps, torch.ones(4).bool(), 4.0).total
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(images).logits, half.logits.detach())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    torch.testing.assert_close(half.logits.float(), full.logits, rtol=0.1, atol=0.02)
    near = F.cosine_similarity(half.maps.float().flatten(1), full.maps.flatten(1))
    assert near.min() > 0.99


def test_fresh_attention_is_more_than_rounding():
    torch.manual_seed(0)
    model, images = build_ts_cam("thin-vit", 4), torch.randn(2, 3, 96, 96)
    assert attention(model(images).features[-1]).abs().mean() > 1e-3
    nn.init.ones_(model.norm.weight)  # then every token's channels are balanced to zero
    assert attention(model(images).features[-1]).abs().mean() < 1e-6


def test_a_few_steps_lower_the_loss_and_move_attention_to_the_target():
    torch.manual_seed(0)
    losses, apart = learn_quarters(build_ts_cam("thin-vit", 4))
    assert losses[-1][1] < 0.5 * losses[0][1]
    assert losses[-1][2] < 0.5 * losses[0][2]
    assert apart < 0.4


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_published_weights_load_and_their_classifier_is_left_out(tmp_path, suffix):
    torch.manual_seed(0)
    model = TsCam(TINY, 3)
    shapes = published_shapes(8, 3, 10, 4, 10) | {"head_dist.weight": (10, 8)}
    given = {k: torch.randn(shape) for k, shape in shapes.items()}
    file = tmp_path / f"deit{suffix}"
    if suffix == ".pth":
        torch.save({"model": given, "epoch": 3}, file)
    else:
        safetensors.torch.save_file(given, file)
    head = model.head.weight.clone()
    assert load_ts_cam_weights(model, file) == [
        f"deit{suffix}: 1 not used (head_dist.weight)",
        f"deit{suffix}: its classifier (head, 10 classes) is left out",
    ]
    for key, value in model.state_dict().items():
        assert torch.equal(value, head if key == "head.weight" else given[key]) or (
            key == "head.bias"
        )


def test_a_ts_cam_checkpoint_loads_with_its_classifier(tmp_path):
    torch.manual_seed(0)
    source, target = TsCam(TINY, 3), TsCam(TINY, 3)
    torch.save(source.state_dict(), tmp_path / "own.pth")
    assert load_ts_cam_weights(target, tmp_path / "own.pth") == []
    for key, value in target.state_dict().items():
        assert torch.equal(value, source.state_dict()[key])


def test_positions_of_another_size_are_resized_with_a_message(tmp_path):
    torch.manual_seed(0)
    source = TsCam(VitShape(8, 3, 2, patch=4, image=24), 3)
    torch.save(source.state_dict(), tmp_path / "large.pth")
    target = TsCam(TINY, 3)
    messages = load_ts_cam_weights(target, tmp_path / "large.pth")
    assert messages == ["large.pth: position embeddings of 6 x 6 made 3 x 3"]
    assert torch.equal(target.pos_embed, resize_positions(source.pos_embed, (3, 3)))


def test_what_is_missing_or_does_not_fit_is_told(tmp_path):
    state = TsCam(TINY, 3).state_dict()
    less = {k: v for k, v in state.items() if k != "blocks.1.attn.qkv.bias"}
    torch.save(less, tmp_path / "less.pth")
    messages = load_ts_cam_weights(TsCam(TINY, 3), tmp_path / "less.pth")
    assert messages == ["less.pth: 1 parameters missing (blocks.1.attn.qkv.bias)"]
    for change, message in (
        ({"cls_token": torch.zeros(1, 1, 9)}, "cls_token is (1, 1, 9)"),
        ({"pos_embed": torch.zeros(1, 8, 8)}, "pos_embed has 8 positions"),
    ):
        torch.save(state | change, tmp_path / "other.pth")
        with pytest.raises(AuheatError, match=re.escape(message)):
            load_ts_cam_weights(TsCam(TINY, 3), tmp_path / "other.pth")
