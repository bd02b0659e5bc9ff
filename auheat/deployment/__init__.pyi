from .exporter import export_model as export_model
from .photo_transform import FramedPhoto as FramedPhoto
from .photo_transform import PhotoTransform as PhotoTransform
from .run_model import RunModel as RunModel
from .run_model import load_model as load_model

__all__ = ["FramedPhoto", "PhotoTransform", "RunModel", "export_model", "load_model"]
