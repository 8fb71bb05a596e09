"""Names that code written against 0.1 imports."""

from __future__ import annotations

import importlib

import pytest

import agents
import synthselect_env

FORMER_NAMES = {
    "synthselect_env": "FeatureBank Retrainings Selection SelectionVecEnv Split "
    "SyntheticSelectionEnv load_bank register_envs",
    "synthselect_env.bank": "FeatureBank",
    "synthselect_env.classifier": "Classifier TrainingConfig train_classifier",
    "synthselect_env.compute": "autocast has_bfloat16 load_state pick_device seeded weights_digest",
    "synthselect_env.data": "EncodedImages LabelledImages LazyImages RenderedImages appearance "
    "apportion cervical_phantom decode draw_per_class phantom_candidates read_class_folders "
    "read_pcam split_by_group",
    "synthselect_env.data.appearance": "appearance",
    "synthselect_env.data.augment": "colour_jitter dihedral",
    "synthselect_env.data.subsets": "apportion draw_per_class split_by_group",
    "synthselect_env.embedded": "load_bank planted_pcam resolve_bank toy_bank",
    "synthselect_env.env": "SelectionEpisodes SyntheticSelectionEnv framed",
    "synthselect_env.evaluators": "CachedEvaluator DatamodelEvaluator EVALUATORS Evaluations "
    "Evaluator LinearProbeEvaluator ParallelEvaluator RayEvaluator "
    "RetrainEvaluator default_evaluator make_evaluator with_retrainings",
    "synthselect_env.evaluators.heads": "Design RidgeHead grid",
    "synthselect_env.evaluators.ranking": "draw_design out_of_bag_fit ranking_probe",
    "synthselect_env.extraction": "extract_bank train_extractor",
    "synthselect_env.files": "atomic_write code_digest library_digest",
    "synthselect_env.hdf5": "read_retrainings read_split write_retrainings write_split",
    "synthselect_env.rewards": "REWARDS Reward RewardTracker resolve_reward",
    "synthselect_env.selection": "Selection",
    "synthselect_env.split": "Retrainings Split",
    "synthselect_env.synthesis": "CollapseError HistoGAN HistoGANConfig frechet_distance "
    "nearest_distances share_closer tile",
    "synthselect_env.trimming": "met trimmed",
    "synthselect_env.vec_env": "SelectionVecEnv",
    "synthselect_env.wrappers": "BoxThresholdWrapper PerCandidateWrapper",
    "agents": "CreditPPO GRUAttentionPolicy GRUPolicy REINFORCE TransformerPolicy",
    "agents.callbacks": "MetricsCSV SelectionMetrics run_logger",
    "agents.compare": "Comparison Outcome compare",
    "agents.controllers": "Controller GRUAttentionController GRUController TransformerController",
    "agents.credit_ppo": "CREDITS CreditPPO RATIOS RidgeCritic",
    "agents.extractors": "CandidateProjection",
    "agents.intervals": "half_interval paired_bootstrap",
    "agents.policies": "CandidateRows ControllerExtractor SelectionPolicy TransformerPolicy",
    "agents.reinforce": "BASELINES REINFORCE",
    "agents.report": "centroid_histogram comparison_latex comparison_markdown comparison_table "
    "discovery discovery_curve feature_map gap_chart kept_and_discarded learning_curves "
    "most_and_least_wanted read_history real_and_candidates recommendation save_figure "
    "selection_rates truth_figures write_report",
    "agents.report.figure": "new_figure panels save_figure",
    "agents.report.pictures": "kept_and_discarded kept_strips real_and_candidates",
    "agents.report.truth": "discovery truth_figures",
    "agents.selectors": "AllSelector BanzhafSelector CentroidSelector ConfidenceSelector "
    "CreditSelector CrossEntropySelector DVRLSelector DataOOBSelector EntropyCentroidSelector "
    "FitAndLooksSelector GradientMatchingSelector HerdingSelector InfluenceSelector "
    "KNNShapleySelector NoneSelector OracleSelector PolicySelector RandomSearchSelector "
    "RandomSelector RatioSelector SELECTORS SearchSelector Selector TrainingSelector "
    "TripletSelector mask_of_episode",
}
"""Module to the public names that 0.1 had there. Only what was removed is missing."""


@pytest.mark.parametrize("module", FORMER_NAMES)
def test_former_names_are_importable(module: str) -> None:
    found = importlib.import_module(module)
    missing = [name for name in FORMER_NAMES[module].split() if not hasattr(found, name)]
    assert not missing


def test_former_modules_hold_the_present_objects() -> None:
    from agents.compare import compare
    from synthselect_env.rewards import Reward
    from synthselect_env.split import Split

    assert Split is synthselect_env.Dataset
    assert Reward is importlib.import_module("synthselect_env.envs.rewards").Reward
    assert compare is importlib.import_module("agents.evaluation").compare
    assert synthselect_env.wrappers.PerCandidateWrapper.__name__ == "PerCandidateWrapper"
    assert agents.callbacks.run_logger is importlib.import_module("agents.runs").run_logger


def test_former_modules_do_not_invent_names() -> None:
    with pytest.raises(ImportError):
        from synthselect_env.rewards import Nothing  # noqa: F401
    assert not hasattr(importlib.import_module("synthselect_env.env"), "Nothing")
