"""APViT: the face network's published names, and its pooling against sorting by hand."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from vit_helpers import copy_attention, learn_quarters, lit_quarters, randomize

from auheat.errors import AuheatError
from auheat.losses import total_loss
from auheat.models import apvit
from auheat.models.apvit import (
    ApVit,
    ApvitShape,
    ImprovedUnit,
    IrStem,
    PoolingBlock,
    build_apvit,
    load_apvit_weights,
    pick_top,
)
from auheat.models.vit import Attention, resize_positions

TINY = ApvitShape((1, 2, 2), 4, 8, 2, (1.0, 0.7, 0.5), kept_patches=0.75, image=32)
NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

pytestmark = pytest.mark.usefixtures("one_thread")


def published_ir50_names(stages=3):
    """Names of face.evoLVe's IR-50, written from its layout: units are numbered through."""
    names = ["input_layer.0.weight", *(f"input_layer.1.{k}" for k in NORM), "input_layer.2.weight"]
    unit = 0
    for stage, count in enumerate((3, 4, 14, 3)[:stages]):
        for i in range(count):
            at = f"body.{unit}"
            if stage and i == 0:  # where the channels double
                names += [f"{at}.shortcut_layer.0.weight"]
                names += [f"{at}.shortcut_layer.1.{k}" for k in NORM]
            names += [f"{at}.res_layer.0.{k}" for k in NORM]
            names += [f"{at}.res_layer.{k}.weight" for k in (1, 2, 3)]
            names += [f"{at}.res_layer.4.{k}" for k in NORM]
            unit += 1
    return names


def published_vit_small(width=768, depth=8, hidden=2304, positions=197):
    """Names and shapes of the ViT-small of that time, without what APViT has no place for."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, positions, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for i in range(depth):
        shapes |= {f"blocks.{i}.norm{n}.{k}": (width,) for n in (1, 2) for k in ("weight", "bias")}
        shapes[f"blocks.{i}.attn.qkv.weight"] = (3 * width, width)
        for name, shape in (
            ("attn.proj", (width, width)),
            ("mlp.fc1", (hidden, width)),
            ("mlp.fc2", (width, hidden)),
        ):
            shapes[f"blocks.{i}.{name}.weight"] = shape
            shapes[f"blocks.{i}.{name}.bias"] = shape[:1]
    return shapes


def count_stem(width=64, units=(3, 4, 14)):
    """Parameters of the stem by hand: convolutions, two per channel of a norm, one of a PReLU."""
    total, inputs = 27 * width + 3 * width, width
    for stage, count in enumerate(units):
        outputs = width * 2**stage
        for i in range(count):
            c = inputs if i == 0 else outputs
            total += 2 * c + 9 * c * outputs + outputs + 9 * outputs**2 + 2 * outputs
            total += c * outputs + 2 * outputs if c != outputs else 0
        inputs = outputs
    return total


def test_names_and_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        model = build_apvit("apvit", 7)
    assert sorted(model.extractor.state_dict()) == sorted(published_ir50_names())
    assert sum(p.numel() for p in model.extractor.parameters()) == count_stem()
    vit = {k: tuple(v.shape) for k, v in model.vit.state_dict().items()}
    assert (vit.pop("proj.weight"), vit.pop("proj.bias")) == ((768, 256, 1, 1), (768,))
    assert vit == published_vit_small()
    assert tuple(model.head.weight.shape) == (7, 768)


def test_stem_ends_in_14_x_14_x_256_at_112_px():
    with torch.device("meta"):
        features = IrStem((3, 4, 14), 64)(torch.zeros(1, 3, 112, 112))
    assert [tuple(f.shape[1:]) for f in features] == [
        (64, 112, 112),
        (64, 56, 56),
        (128, 28, 28),
        (256, 14, 14),
        (256, 14, 14),
    ]


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 4), (4, 8)])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_improved_unit_is_bn_conv_prelu_conv_bn_and_a_shortcut(inputs, outputs, stride):
    unit = randomize(ImprovedUnit(inputs, outputs, stride))
    x = torch.randn(2, inputs, 6, 6)
    p = unit.state_dict()

    def norm(y, at):
        mean, var = (p[f"{at}.running_{k}"][:, None, None] for k in ("mean", "var"))
        scale, shift = (p[f"{at}.{k}"][:, None, None] for k in ("weight", "bias"))
        return (y - mean) / torch.sqrt(var + 1e-5) * scale + shift

    y = F.conv2d(norm(x, "res_layer.0"), p["res_layer.1.weight"], padding=1)
    y = torch.where(y > 0, y, p["res_layer.2.weight"][:, None, None] * y)
    y = norm(F.conv2d(y, p["res_layer.3.weight"], stride=stride, padding=1), "res_layer.4")
    short = x[:, :, ::stride, ::stride]
    if inputs != outputs:
        short = norm(F.conv2d(short, p["shortcut_layer.0.weight"]), "shortcut_layer.1")
    torch.testing.assert_close(unit(x), y + short, rtol=1e-4, atol=1e-5)


def best_by_hand(values, count):
    """Indices of the highest values, ascending, by sorting a Python list."""
    ranked = sorted(range(len(values)), key=lambda i: -float(values[i]))
    return sorted(ranked[:count])


def test_top_indices_equal_sorting_by_hand():
    weights = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    for count in (1, 7, 30):
        expected = [best_by_hand(row, count) for row in weights]
        assert pick_top(weights, count).tolist() == expected


def layer_norm(x, norm):
    mean, var = x.mean(1, keepdim=True), x.var(1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-6) * norm.weight + norm.bias


def pool_by_hand(block, tokens):
    """One photo's tokens (1 + N, D) after a block, its tokens sorted and dropped by hand."""
    x = layer_norm(tokens, block.norm1)
    mixed, _ = copy_attention(block.attn)(x[None], x[None], x[None])
    y = tokens + mixed[0]
    width, heads = tokens.shape[1], block.attn.heads
    d = width // heads
    q, k, _ = (x @ block.attn.qkv.weight.T).split(width, 1)
    weight = [
        sum(float(q[0, h * d : h * d + d] @ key[h * d : h * d + d]) for h in range(heads))
        for key in k[1:]
    ]
    count = max(1, math.floor(block.kept * len(weight)))
    y = y[[0, *(1 + i for i in best_by_hand(weight, count))]]
    x = layer_norm(y, block.norm2)
    hidden = F.linear(x, block.mlp.fc1.weight, block.mlp.fc1.bias)
    hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
    return y + F.linear(hidden, block.mlp.fc2.weight, block.mlp.fc2.bias)


def apvit_by_hand(model, image):
    """Logits (K,) and APP's attention (h, w) of one photo."""
    features, vit = model.extractor(image[None])[-1][0], model.vit
    c, h, w = features.shape
    weight = vit.proj.weight.reshape(-1, c)
    patches = torch.stack(
        [weight @ features[:, i, j] + vit.proj.bias for i in range(h) for j in range(w)]
    )
    attention = [sum(abs(float(v)) for v in patch) for patch in patches]
    kept = best_by_hand(attention, round(vit.kept * h * w))
    tokens = [vit.cls_token[0, 0] + vit.pos_embed[0, 0]]
    tokens += [patches[i] + vit.pos_embed[0, 1 + i] for i in kept]
    tokens = torch.stack(tokens)
    for block in vit.blocks:
        tokens = pool_by_hand(block, tokens)
    logits = F.linear(layer_norm(tokens[:1], vit.norm), model.head.weight, model.head.bias)
    return logits[0], torch.tensor(attention).reshape(h, w), len(tokens) - 1


def small_case():
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return randomize(ApVit(TINY, 3)), images


def compare_apvit(model, images):
    output = model(images)
    for i, image in enumerate(images):
        logits, attention, _ = apvit_by_hand(model, image)
        torch.testing.assert_close(output.logits[i], logits, rtol=1e-3, atol=1e-4)
        for own in output.maps[i]:
            torch.testing.assert_close(own, attention, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_forward_equals_one_photo_at_a_time_by_hand():
    model, images = small_case()
    compare_apvit(model, images)
    assert apvit_by_hand(model, images[0])[2] == 4  # of 16: 12, 12, 8 (of 8.4), 4


def max_over_heads(scores):
    return scores.amax(1)[:, 1:]


def positions_after(self, features):
    patches = self.proj(features)
    grid = patches.shape[2:]
    attention = apvit.score_patches(patches)
    best = pick_top(attention.flatten(1), round(self.kept * math.prod(grid)))
    kept = apvit.take(patches.flatten(2).mT, best) + self.pos_embed[:, 1 : 1 + best.shape[1]]
    first = (self.cls_token + self.pos_embed[:, :1]).expand(len(features), -1, -1)
    tokens = torch.cat([first, kept], 1)
    for block in self.blocks:
        tokens, _ = block(tokens)
    return self.norm(tokens)[:, 0], attention


def drop_after_the_mlp(self, tokens):
    tokens, scores = self.attention_residual(tokens)
    tokens = self.mlp_residual(tokens)
    count = max(1, math.ceil((tokens.shape[1] - 1) * self.kept))
    best = pick_top(apvit.score_tokens(scores), count)
    return torch.cat([tokens[:, :1], apvit.take(tokens[:, 1:], best)], 1), scores


PLAIN_ATTENTION = Attention.forward


def another_row(self, tokens):
    out, _ = PLAIN_ATTENTION(self, tokens)
    _, scores = PLAIN_ATTENTION(self, tokens.roll(-1, 1))
    return out, scores.roll(1, 2)


MUTANTS = {
    "the lowest are kept": (
        apvit,
        "pick_top",
        lambda w, n: w.topk(n, 1, largest=False).indices.sort(1).values,
    ),
    "APP without absolute values": (apvit, "score_patches", lambda p: p.sum(1)),
    "APP of squares": (apvit, "score_patches", lambda p: p.square().sum(1)),
    "ATP by the best head": (apvit, "score_tokens", max_over_heads),
    "ATP by softmaxed scores": (apvit, "score_tokens", lambda s: s.softmax(-1).sum(1)[:, 1:]),
    "ATP shifted by the class token": (apvit, "score_tokens", lambda s: s.sum(1)[:, :-1]),
    "ATP by another token's scores": (Attention, "forward", another_row),
    "ATP rounds up, after the MLP": (PoolingBlock, "forward", drop_after_the_mlp),
    "positions of the kept ones' ranks": (apvit.PoolingVit, "forward", positions_after),
}


@pytest.mark.parametrize("mutant", MUTANTS)
@torch.no_grad()
def test_a_wrong_pooling_does_not_equal_the_one_by_hand(mutant, monkeypatch):
    model, images = small_case()
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises(AssertionError):
        compare_apvit(model, images)


def test_maps_are_the_same_for_every_class_and_never_negative():
    maps = build_apvit("thin-apvit", 4)(torch.randn(2, 3, 96, 96)).maps
    assert maps.shape == (2, 4, 12, 12)
    assert (maps == maps[:, :1]).all()
    assert (maps >= 0).all()
    assert not maps.requires_grad


@pytest.mark.slow
def test_full_size_model_takes_a_step_and_is_evaluated_at_112_px():
    torch.manual_seed(0)
    model = build_apvit("apvit", 7)
    counts = []
    for block in model.vit.blocks:
        block.register_forward_hook(lambda _, __, out: counts.append(out[0].shape[1] - 1))
    images, labels, heatmaps = lit_quarters(1, 112, 7)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    output = model(images, labels)
    assert counts == [160, 160, 160, 160, 144, 129, 116, 104]
    total_loss(output, labels, heatmaps, torch.ones(1).bool(), 4.0).total.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    with torch.inference_mode():
        output = model.eval()(images)
    assert output.logits.shape == (1, 7)
    assert output.maps.shape == (1, 7, 14, 14)
    assert len(output.features) == 5
    assert torch.isfinite(output.logits).all()


@pytest.mark.parametrize("au_weight", [0.0, 4.0])
def test_gradients_reach_every_parameter(au_weight):
    torch.manual_seed(0)
    model = build_apvit("thin-apvit", 4)
    images, labels, heatmaps = lit_quarters(4, 96, 4)
    output = model(images, labels)
    total_loss(output, labels, heatmaps, torch.ones(4).bool(), au_weight).total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@torch.inference_mode()
def test_a_photos_answer_does_not_depend_on_its_batch():
    torch.manual_seed(0)
    model, images = build_apvit("thin-apvit", 4).eval(), torch.randn(5, 3, 96, 96)
    batch = model(images)
    for i in range(5):
        alone = model(images[i : i + 1])
        torch.testing.assert_close(alone.logits[0], batch.logits[i], rtol=0, atol=1e-5)
        torch.testing.assert_close(alone.maps[0], batch.maps[i], rtol=1e-5, atol=1e-5)
        for one, many in zip(alone.features, batch.features, strict=True):
            torch.testing.assert_close(one[0], many[i], rtol=0, atol=1e-5)


@torch.inference_mode()
def test_photos_of_other_sizes_are_taken():
    model = build_apvit("thin-apvit", 4).eval()
    assert model(torch.rand(1, 3, 64, 48)).maps.shape == (1, 4, 8, 6)


def test_half_precision_stays_near_single_precision():
    torch.manual_seed(0)
    model = build_apvit("thin-apvit", 4)
    images, labels, heatmaps = lit_quarters(4, 96, 4)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(images)
        loss = total_loss(half, labels, heatmaps, torch.ones(4).bool(), 4.0).total
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(model(images).logits, half.logits.detach())
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    full = model(images)
    torch.testing.assert_close(half.logits.float(), full.logits, rtol=0.1, atol=0.05)
    near = F.cosine_similarity(half.maps.float().flatten(1), full.maps.flatten(1))
    assert near.min() > 0.99


@pytest.mark.slow
def test_a_few_steps_lower_the_loss_and_move_attention_to_the_target():
    torch.manual_seed(0)
    losses, apart = learn_quarters(build_apvit("thin-apvit", 4))
    assert losses[-1][1] < 0.5 * losses[0][1]
    assert losses[-1][2] < 0.5 * losses[0][2]
    assert apart < 0.4


def test_unknown_backbone_names_the_known_ones():
    with pytest.raises(AuheatError, match="not known \\(one of apvit, thin-apvit"):
        build_apvit("deit-small", 3)


def random_like(state, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        k: torch.randn(v.shape, generator=generator) if v.is_floating_point() else v.clone()
        for k, v in state.items()
    }


def assert_loaded(module, given, rename=lambda key: key):
    for key, value in module.state_dict().items():
        assert torch.equal(value, given[rename(key)]), key


def test_a_face_network_goes_to_the_stem_and_its_rest_is_told(tmp_path):
    model = ApVit(TINY, 3)
    given = random_like(model.extractor.state_dict())
    rest = {"body.5.res_layer.1.weight": torch.ones(2), "output_layer.3.bias": torch.ones(2)}
    torch.save(given | rest, tmp_path / "ir50.pth")
    assert load_apvit_weights(model, tmp_path / "ir50.pth") == [
        "ir50.pth: 2 not used (body.5.res_layer.1.weight, output_layer.3.bias)"
    ]
    assert_loaded(model.extractor, given)


def test_a_vision_transformer_goes_to_the_transformer_and_its_rest_is_told(tmp_path):
    model = ApVit(TINY, 3)
    given = random_like(model.vit.state_dict())
    rest = {"patch_embed.proj.weight": torch.ones(2), "head.weight": torch.ones(10, 8)}
    state = {k: v for k, v in given.items() if not k.startswith("proj.")} | rest
    state["pos_embed"] = torch.randn(1, 1 + 36, 8)
    torch.save(state, tmp_path / "vit.pth")
    proj = model.vit.proj.weight.clone()
    assert load_apvit_weights(model, tmp_path / "vit.pth") == [
        "vit.pth: position embeddings of 6 x 6 made 4 x 4",
        "vit.pth: 2 parameters missing (proj.weight, proj.bias)",
        "vit.pth: 1 not used (patch_embed.proj.weight)",
        "vit.pth: its classifier (head, 10 classes) is left out",
    ]
    assert torch.equal(model.vit.proj.weight, proj)
    assert torch.equal(model.vit.pos_embed, resize_positions(state["pos_embed"], (4, 4)))
    assert torch.equal(model.vit.blocks[1].attn.qkv.weight, given["blocks.1.attn.qkv.weight"])


def authors_name(key):
    """The authors' name of one of our parameters; positions are two of theirs."""
    match = re.fullmatch(r"extractor\.body\.(\d)\.(.*)", key)
    if match:
        stage, unit = {"0": (0, 0), "1": (1, 0), "2": (1, 1), "3": (2, 0), "4": (2, 1)}[match[1]]
        return f"extractor.body.{stage}.{unit}.{match[2]}"
    return key.replace("vit.proj.", "vit.projs.0.").replace("head.", "head.fc.")


@pytest.mark.parametrize("whose", ["own", "authors"])
def test_a_whole_model_loads_under_its_own_and_under_the_authors_names(tmp_path, whose):
    source, target = randomize(ApVit(TINY, 3)), ApVit(TINY, 3)
    own = source.state_dict()
    state = own
    if whose == "authors":
        state = {authors_name(k): v for k, v in own.items() if k != "vit.pos_embed"}
        assert len(state) == len(own) - 1
        state["vit.cls_pos_embed"] = own["vit.pos_embed"][:, :1].clone()
        state["vit.patch_pos_embed"] = own["vit.pos_embed"][:, 1:].clone()
    torch.save({"meta": {"epoch": 3}, "state_dict": state}, tmp_path / "apvit.pth")
    assert load_apvit_weights(target, tmp_path / "apvit.pth") == []
    assert_loaded(target, own)


def test_a_checkpoint_of_something_else_is_refused(tmp_path):
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(AuheatError, match="no parameter of this backbone"):
        load_apvit_weights(ApVit(TINY, 3), tmp_path / "other.pth")
