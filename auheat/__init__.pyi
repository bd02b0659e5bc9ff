from .data.dataset import ShardDataset as ShardDataset
from .data.stream import ShardStream as ShardStream
from .data.stream import StreamLoader as StreamLoader
from .datasets.registry import list_datasets as list_datasets
from .datasets.registry import read_samples as read_samples
from .datasets.registry import register_dataset as register_dataset
from .deployment.exporter import export_model as export_model
from .deployment.run_model import load_model as load_model
from .errors import AuheatError as AuheatError
from .errors import MissingExtraError as MissingExtraError
from .errors import RequestError as RequestError
from .errors import StoreError as StoreError
from .evaluation.bootstrap import interval as interval
from .evaluation.bootstrap import paired_interval as paired_interval
from .evaluation.evaluator import evaluate as evaluate
from .explanation.explainer import explain as explain
from .explanation.explainer import explain_to as explain_to
from .exporters.exporter import export as export
from .expressions import EXPRESSIONS as EXPRESSIONS
from .facs.codebooks import list_codebooks as list_codebooks
from .facs.codebooks import load_codebook as load_codebook
from .facs.records import Codebook as Codebook
from .heatmaps.plan import plan_heatmaps as plan_heatmaps
from .heatmaps.render import render_heatmaps as render_heatmaps
from .landmarks.registry import list_detectors as list_detectors
from .landmarks.registry import load_detector as load_detector
from .landmarks.registry import register_detector as register_detector
from .losses import au_alignment_loss as au_alignment_loss
from .losses import class_map_alignment_loss as class_map_alignment_loss
from .losses import contrastive_alignment_loss as contrastive_alignment_loss
from .models.names import list_methods as list_methods
from .models.output import tokens_to_map as tokens_to_map
from .models.registry import METHODS as METHODS
from .models.registry import build_classifier as build_classifier
from .models.registry import register_method as register_method
from .pipeline.extraction import extract as extract
from .pipeline.rendering import render as render
from .records import Landmarks as Landmarks
from .records import Sample as Sample
from .records import Status as Status
from .reporting.page import report as report
from .reporting.store_stats import stats as stats
from .shards.reader import content_digest as content_digest
from .shards.reader import read_columns as read_columns
from .store.maintenance import verify as verify
from .store.merging import merge as merge
from .sweeps.runner import sweep as sweep
from .training.config import TrainConfig as TrainConfig
from .training.config import make_config as make_config
from .training.runner import train as train

__version__: str
__all__ = [
    "EXPRESSIONS",
    "METHODS",
    "AuheatError",
    "Codebook",
    "Landmarks",
    "MissingExtraError",
    "RequestError",
    "Sample",
    "ShardDataset",
    "ShardStream",
    "Status",
    "StoreError",
    "StreamLoader",
    "TrainConfig",
    "au_alignment_loss",
    "build_classifier",
    "class_map_alignment_loss",
    "content_digest",
    "contrastive_alignment_loss",
    "evaluate",
    "explain",
    "explain_to",
    "export",
    "export_model",
    "extract",
    "interval",
    "list_codebooks",
    "list_datasets",
    "list_detectors",
    "list_methods",
    "load_codebook",
    "load_detector",
    "load_model",
    "make_config",
    "merge",
    "paired_interval",
    "plan_heatmaps",
    "read_columns",
    "read_samples",
    "register_dataset",
    "register_detector",
    "register_method",
    "render",
    "render_heatmaps",
    "report",
    "stats",
    "sweep",
    "tokens_to_map",
    "train",
    "verify",
]
