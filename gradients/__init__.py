"""Gradients of single privacy units, in NumPy: models, losses, norms and weighted sums."""

from gradients.blocks import Block, make_blocks
from gradients.bounds import summation_slack, tile_units
from gradients.metrics import classification_metrics, mean_loss, regression_metrics
from gradients.models import Model, Parameters, make_model
from gradients.optimizers import Optimizer, OptimizerState, make_optimizer
from gradients.per_example import UnitGradients, unit_gradients

__all__ = [
    "Block",
    "Model",
    "Optimizer",
    "OptimizerState",
    "Parameters",
    "UnitGradients",
    "classification_metrics",
    "make_blocks",
    "make_model",
    "make_optimizer",
    "mean_loss",
    "regression_metrics",
    "summation_slack",
    "tile_units",
    "unit_gradients",
]
