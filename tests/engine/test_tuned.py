"""Tuned settings of a method by name: each loads, names its source, and yields to settings given beside
it.
"""

from __future__ import annotations

from harness.decoding.registry import load_method
from harness.decoding.settings import build_config, setting_names
from harness.engine.opening import Wish, open_engine
from harness.engine.tuned import tuned_presets


def test_every_preset_loads() -> None:
    count = 0
    for method, presets in tuned_presets().items():
        config = load_method(method).decoder.Config
        assert "preset" not in setting_names(config), f"{method} has presets of its own"
        for name, preset in presets.items():
            build_config(method, config, preset.settings)
            assert preset.source, name
            count += 1
    assert count > 40


def test_a_preset_is_between_the_model_and_the_command() -> None:
    def settings(wish: str, shared: dict[str, str] | None = None) -> dict[str, object]:
        return open_engine(Wish.parse(wish), "nano", shared).generator.settings

    assert settings("wino") == {"block_length": 8}
    assert settings("wino:preset=mbpp") == {"block_length": 8, "wide_in_thres": 0.8, "narrow_out_thres": 0.9}
    assert settings("wino:preset=mbpp,wide_in_thres=0.5")["wide_in_thres"] == "0.5"
    assert settings("wino:preset=mbpp", {"narrow_out_thres": "0.7"})["narrow_out_thres"] == "0.7"
    assert settings("wino", {"wino.preset": "arc"})["wide_in_thres"] == 0.5
    assert settings("klass:preset=llada_gsm8k")["block_length"] == 64
