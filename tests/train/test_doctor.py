"""The doctor tells what is wrong and how to mend it."""

import importlib.util
import subprocess

from pcseg import doctor


def test_this_machine_works():
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["ops on cpu"].state == "ok"
    assert findings["instruction set"].value in ("portable", "AVX2", "AVX-512")
    assert not [finding for finding in findings.values() if finding.state == "problem"]


def test_a_missing_package_is_named(monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name, *a: None if name == "laspy" else find(name, *a)
    )
    findings = doctor._packages()
    assert findings[0] == doctor.Finding("packages", "problem", "missing: laspy", "pip install .")
    doctor._print(findings)
    assert "pip install 'pcseg[scatter]'" in capsys.readouterr().out


def test_a_check_that_breaks_is_a_finding(monkeypatch):
    def broken():
        raise ImportError("libpcseg_cpu.so is missing: build it")

    monkeypatch.setattr(doctor, "_libraries", broken)
    finding = next(f for f in doctor.examine() if f.name == "libraries")
    assert finding.state == "problem"
    assert finding.value == "ImportError: libpcseg_cpu.so is missing: build it"


def test_a_gpu_that_torch_does_not_use(monkeypatch):
    done = subprocess.CompletedProcess([], 0, stdout="NVIDIA H200, 570.1, 143771 MiB\n", stderr="")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *a, **k: done)
    monkeypatch.setattr("torch.version.cuda", None)
    finding = next(f for f in doctor._torch() if f.name == "CUDA in torch")
    assert finding.state == "note"
    assert "make install CUDA=1" in finding.advice
