"""The user's model, and the recording of the forward run that is explained."""

from relprop.core.capture.model import Model, require_evaluation_mode, unwrap
from relprop.core.capture.recorder import record
from relprop.core.capture.recording import Recording
from relprop.core.capture.translate import capture, graph_of, last_step

__all__ = ["Model", "Recording", "capture", "graph_of", "last_step", "record", "require_evaluation_mode", "unwrap"]
