"""The worlds of a scenario: one registry, from the kind of a population to what makes its worlds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property, lru_cache

from toolenv.scenarios.builder import TODAY
from toolenv.scenarios.business import SCHEMA as BUSINESS_SCHEMA
from toolenv.scenarios.business import business_population
from toolenv.scenarios.own_database import OwnDatabase
from toolenv.scenarios.population import crm_population
from toolenv.scenarios.schema import BusinessPopulation, CrmPopulation, DatabasePopulation, FilesPopulation, Population
from toolenv.scenarios.splits import Split, mix, split_of
from toolenv.scenarios.workspace_files import SCHEMA as FILES_SCHEMA
from toolenv.scenarios.workspace_files import files_population
from toolenv.tools.crm import SCHEMA as CRM_SCHEMA
from toolenv.tools.interpreter import workspace
from toolenv.tools.world import WorldImage, open_connection


@dataclass(frozen=True)
class WorldSource:
    """Where the worlds of a population come from.

    Attributes:
        population: as the scenario's file says.
        own: the user's own database, of a population of that kind.
        workspace: whether its worlds have one, for an interpreter.
    """

    population: Population
    own: OwnDatabase | None = None
    workspace: bool = False

    @cached_property
    def key(self) -> str:
        """Equal for populations whose worlds of the same number are equal."""
        if self.own is not None:
            base = hashlib.blake2b(self.own.image.data, digest_size=16).hexdigest()
        else:
            base = self.population.model_dump_json(exclude={"worlds", "held_out_worlds"})
        return f"{base} with workspace" if self.workspace else base

    @cached_property
    def tables(self) -> WorldImage:
        """A world with all tables, for checks of names and SQL; a generated one is empty."""
        image = _empty(self.population.kind) if self.own is None else self.own.image
        return workspace.added_to(image) if self.workspace else image

    @property
    def today(self) -> str:
        """The date on which the worlds stand still; one's own database has none."""
        return TODAY.isoformat() if self.own is None else ""

    def index(self, seed: int) -> int:
        """The number of a seed's world; each split draws from its own range, except of one's own database."""
        population = self.population
        if isinstance(population, DatabasePopulation):
            return 0
        split = split_of(seed)
        if split is Split.TRAIN:
            return mix(seed, 1) % population.worlds
        offset = population.worlds + (0 if split is Split.VALIDATION else population.held_out_worlds)
        return offset + mix(seed, 1) % population.held_out_worlds

    def image(self, index: int) -> WorldImage:
        """The world of a number.

        Raises:
            ScenarioError: the population can not be made.
        """
        return workspace.added_to(self._image(index)) if self.workspace else self._image(index)

    def _image(self, index: int) -> WorldImage:
        population = self.population
        if isinstance(population, CrmPopulation):
            return crm_population(
                mix(population.seed, index),
                locale=population.locale,
                customers=population.customers,
                products=population.products,
                orders=population.orders,
            )
        if isinstance(population, BusinessPopulation):
            return business_population(
                mix(population.seed, index),
                locale=population.locale,
                employees=population.employees,
                projects=population.projects,
                expenses=population.expenses,
            )
        if isinstance(population, FilesPopulation):
            return files_population(
                mix(population.seed, index),
                locale=population.locale,
                employees=population.employees,
                sales=population.sales,
            )
        assert self.own is not None
        return self.own.image


_SCHEMAS = {"crm": CRM_SCHEMA, "business": BUSINESS_SCHEMA, "files": FILES_SCHEMA}


@lru_cache
def _empty(kind: str) -> WorldImage:
    connection = open_connection()
    connection.execute(_SCHEMAS[kind])
    return WorldImage.of_connection(connection, "empty")
