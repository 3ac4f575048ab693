"""Where `Study` and `Workbench` were: they are in `relprop.sessions`."""

from relprop.sessions import Map as Map
from relprop.sessions import Stop as Stop
from relprop.sessions import Study as Study
from relprop.sessions import Tell as Tell
from relprop.sessions import Workbench as Workbench
