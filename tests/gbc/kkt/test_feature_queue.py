"""The queue of features of earlier batches."""

from __future__ import annotations

import torch
from torch import nn

from gbc.classifiers.architectures import Classifier
from gbc.config import TrialConfig
from gbc.kkt.feature_queue import FeatureQueue
from gbc.training.trainer import Trainer


def test_it_keeps_the_newest_features_of_the_last_layer() -> None:
    phi = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.Identity()).eval()  # once a Softmax
    queue = FeatureQueue(phi, torch.rand(2, 1, 2, 2), size=5)
    assert torch.equal(queue.values, torch.zeros(5, 3))
    images = torch.rand(4, 1, 2, 2)
    phi(images)
    torch.testing.assert_close(queue.features(), phi[:3](images))
    queue.update(queue.features())
    phi(images.flip(0))
    queue.update(queue.features())
    expected = phi[:3](images)
    torch.testing.assert_close(queue.values, torch.cat([expected.flip(0), expected[:1]]))


def test_a_trainer_contrasts_with_earlier_batches(classifier: Classifier, settings: TrialConfig) -> None:
    config = settings.updated({"contrast_weight": 0.1, "contrast_queue": 100}, "test")
    run = Trainer(config, [classifier])
    (queue,) = run.queues
    run.step()
    filled = config.batch_size
    assert queue.values[:filled].any(dim=1).all() and not queue.values[filled:].any()
    first = queue.values[:filled].clone()
    next(run.run())
    assert not queue.values[:filled].equal(first)
    assert not Trainer(settings, [classifier]).queues
