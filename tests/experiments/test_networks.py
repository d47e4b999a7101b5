import dataclasses
import json

import pytest
import torch
from steps_helpers import retrained

from dashkit.experiments.evaluation import (
    get_results,
    is_measured,
)
from dashkit.experiments.networks import load_student, load_teacher, stale
from dashkit.experiments.run import FINAL
from dashkit.experiments.sweeps import sweep
from dashkit.experiments.training import get_students, get_teacher, train_teacher
from dashkit.storage import store


def test_missing_and_damaged_networks_are_explained(tiny):
    run = tiny()
    with pytest.raises(FileNotFoundError, match=r"teacher of profile smoke, seed 1, is not trained yet.*notebook 02"):
        load_teacher(run)
    with pytest.raises(FileNotFoundError, match="notebook 04"):
        load_student(run, "dash", 1)
    with pytest.raises(ValueError, match="unknown arm 'dosh'"):
        load_student(run, "dosh", 1)
    list(train_teacher(run))
    path = run.folder("teacher", 1) / "final.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="damaged"):
        load_teacher(run)


def test_a_loaded_teacher_is_frozen_with_a_curriculum_of_mean_one(trained):
    run, teacher = trained
    assert not any(p.requires_grad for p in teacher.model.parameters()) and not teacher.model.training
    assert teacher.omega.mean().item() == pytest.approx(1, abs=1e-5) and not teacher.omega.requires_grad
    assert not torch.equal(teacher.omega, run.base) and len(teacher.history) == 6
    manifest = json.loads((run.folder("teacher", 1) / "manifest.json").read_text())
    assert manifest["seed"] == 1 and manifest["settings"]["batch"] == 8


def test_the_network_of_another_profile_is_refused_by_its_settings(trained):
    run, _ = trained
    other = dataclasses.replace(run, profile=dataclasses.replace(run.profile, gamma=4.0))
    other.folder("teacher", 1).mkdir()
    (run.folder("teacher", 1) / FINAL).rename(other.folder("teacher", 1) / FINAL)
    with pytest.raises(ValueError, match="is another network: it differs from this run's in gamma"):
        load_teacher(other)


def test_a_student_belongs_to_the_weights_of_its_teacher(swept, capsys):
    run = swept
    retrained(run, "teacher")
    assert not run.is_trained("dash", 1) and not is_measured(run, "teacher", 1)
    with pytest.raises(FileNotFoundError, match=r"not trained yet .*one that is there differs in teacher_weights\)"):
        load_student(run, "dash", 1)
    for again in (sweep, lambda run: get_students(run, get_teacher(run))):
        retrained(run, "teacher")
        capsys.readouterr()
        again(run)
        said = "seed 1: trained before with another teacher_weights; trained again"     # once, for all arms
        assert capsys.readouterr().out.count(said) == 1


def test_a_network_that_was_replaced_since_it_was_loaded_is_neither_measured_nor_distilled(trained):
    run, teacher = trained
    students = get_students(run, teacher)
    retrained(run, "dash")
    with pytest.raises(ValueError, match="dash, seed 1, was replaced on disk since it was loaded; load it again"):
        get_results(run, teacher, students)
    retrained(run, "teacher")
    for work in (lambda: get_students(run, teacher), lambda: get_results(run, teacher, {})):
        with pytest.raises(ValueError, match="teacher, seed 1, was replaced on disk since it was loaded"):
            work()
    assert not list(run.root.rglob("evaluation-*")) and not run.is_trained("dash", 1)


def test_weights_that_do_not_fit_and_manifests_without_settings_are_named(tiny):
    run = tiny()
    get_teacher(run)
    home = run.folder("teacher", 1)
    saved = store.load_tensors(home / FINAL)
    odd = {"lacks the losses": {"losses": torch.ones(())}, "does not fit": {"ema.x": torch.ones(1)}}
    for message, tensors in odd.items():
        store.save_tensors(home / FINAL, saved.tensors | tensors, saved.meta)
        with pytest.raises(ValueError, match=rf"final\.safetensors {message}"):
            load_teacher(run)
    store.write_json(home / "manifest.json", {"settings": [1]})
    with pytest.raises(ValueError, match=r"manifest\.json is damaged"):
        stale(run, "teacher", 1)
