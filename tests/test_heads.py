"""Heads: their maps and logits belong together."""

import torch

from auheat.wsol.heads import GapHead


def test_logit_is_the_mean_of_the_class_map_plus_bias():
    torch.manual_seed(0)
    head = GapHead((4, 8, 8, 8, 12), 5)
    features = [torch.randn(3, c, 6, 7) for c in (4, 8, 8, 8, 12)]
    output = head(features)
    expected = output.maps.mean((2, 3)) + head.fc.bias
    torch.testing.assert_close(output.logits, expected)
    assert output.maps.shape == (3, 5, 6, 7)
    assert output.aux_logits == ()


def test_class_map_is_the_weighted_sum_of_channels_without_relu():
    torch.manual_seed(0)
    head = GapHead((1, 1, 1, 1, 3), 2)
    top = torch.randn(1, 3, 4, 4)
    maps = head([top]).maps
    for k in range(2):
        by_hand = sum(head.fc.weight[k, c] * top[0, c] for c in range(3))
        torch.testing.assert_close(maps[0, k], by_hand)
    assert maps.min() < 0
