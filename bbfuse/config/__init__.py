"""The configuration of a run: settings, their ranges, the rules between them."""

from bbfuse.config.checks import validate
from bbfuse.config.schema import RunConfig, config_class
from bbfuse.config.serialization import from_dict, to_dict

__all__ = ["RunConfig", "config_class", "from_dict", "to_dict", "validate"]
