from .api.work import compare as compare
from .api.work import evaluate as evaluate
from .api.work import load as load
from .api.work import plan as plan
from .api.work import predict as predict
from .api.work import preprocess as preprocess
from .api.work import train as train
from .api.work import variants as variants
from .core.geometry import Geometry as Geometry
from .core.plan import Plan as Plan
from .core.volume import Volume as Volume
from .core.workspace import Workspace as Workspace
from .errors import CheckpointError as CheckpointError
from .errors import ConfigError as ConfigError
from .errors import DatasetError as DatasetError
from .errors import ImageFileError as ImageFileError
from .errors import InUseError as InUseError
from .errors import PlanningError as PlanningError
from .errors import PredictionError as PredictionError
from .errors import SamunetError as SamunetError
from .errors import ShapeError as ShapeError
from .errors import WeightsAbsentError as WeightsAbsentError
from .inference.prediction import Prediction as Prediction
from .inference.predictor import Predictor as Predictor

__version__: str
