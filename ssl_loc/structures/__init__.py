"""Pure data that the rooms hand to each other. Depends on torch only."""

from ssl_loc.structures.geometry import Geometry, GeometryBatch
from ssl_loc.structures.output import MethodOutput, Pair
from ssl_loc.structures.result import Result
from ssl_loc.structures.sample import Sample
from ssl_loc.structures.view import View
from ssl_loc.structures.views import Views

__all__ = ["Geometry", "GeometryBatch", "MethodOutput", "Pair", "Result", "Sample", "View", "Views"]
