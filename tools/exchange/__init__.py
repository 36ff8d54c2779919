"""The exchange family: from the database's tables into the workspace's files.

The bridge between the database tools and the interpreter, so it is for toolboxes that have both. The order of the
imports is the toolbox's order.
"""

# isort: off
from toolenv.tools.exchange.exports import export_query, export_table

# isort: on

__all__ = ["export_query", "export_table"]
