"""Our environments inside TRL: the schema that TRL reads is the tool's, and its own trainer runs on them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers.utils import get_json_schema

from toolenv.scenarios.loading import Scenario
from toolenv.training.trl_environment import SUBMIT, grpo_environment


@pytest.fixture
def environment(crm: Scenario) -> Any:
    rows, factory = grpo_environment(crm, [17])
    made = factory()
    made.reset(**rows[0])
    return made


def test_every_tool_is_a_method_with_the_schema_of_the_tool(crm: Scenario, environment: Any) -> None:
    public = {name for name in dir(type(environment)) if not name.startswith("_")}
    assert public == {*crm.toolbox.names, SUBMIT, "reset", "get_reward"}
    for spec in crm.toolbox.specs:
        schema = get_json_schema(getattr(environment, spec.name))["function"]
        theirs, ours = schema["parameters"], spec.parameters
        assert schema["description"] == spec.description
        assert set(theirs["properties"]) == set(ours["properties"])
        assert set(theirs.get("required", ())) == set(ours.get("required", ()))


def test_an_episode_is_played_by_methods_and_rewarded(crm: Scenario) -> None:
    rows, factory = grpo_environment(crm, [17], families=["order_status"])
    environment = factory()
    request = environment.reset(**rows[0])
    task = environment._env.task
    assert request == task.instruction
    order = task.variables["order"]
    assert order["status"] in environment.get_order_status(order_id=order["id"])
    assert "invalid_arguments" in environment.get_order_status(order_id=7)
    assert environment.get_reward() == 0.0
    environment.submit_answer(text=f"Order {order['id']} is {order['status']}.")
    assert environment.get_reward() == 1.0
    assert "ended" in environment.get_order_status(order_id=order["id"])
    environment.reset(**rows[0])
    assert environment.get_reward() == 0.0, "instances are used again"


@pytest.mark.slow
def test_trls_own_trainer_runs_on_it(crm: Scenario, fresh_model: Path, tmp_path: Path) -> None:
    """A model with fresh weights learns nothing in a step; that every part fits is what is tested."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    rows, factory = grpo_environment(crm, range(2), families=["thanks"])
    tokenizer = AutoTokenizer.from_pretrained(fresh_model, padding_side="left")
    tokenizer.chat_template = (Path(trl.__file__).parent / "chat_templates" / "qwen3.jinja").read_text()
    model = AutoModelForCausalLM.from_pretrained(fresh_model)
    config = trl.GRPOConfig(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        num_generations=2,
        max_completion_length=8,
        max_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        bf16=False,
        dataloader_pin_memory=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of TRL and torch, about their own interfaces
        trainer = trl.GRPOTrainer(
            model=model,
            args=config,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            environment_factory=factory,
        )
        result = trainer.train()
    assert result.global_step == 1
    rewards = [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    assert rewards == [0.0]
