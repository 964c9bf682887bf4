"""GPUs, of which no device need be there: who is given which, under a real daemon."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Say
from live import Live, eventually
from pmjq.act import DEVICES, NUMBERED
from pmjq.cli import main
from pmjq.probe import gpus
from pmjq.state import State

GPUS = ("-j", "16", "--cpus", "16", "--gpus", "0,1,2,3,GPU-5")

USES = """for gpu in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do
  mkdir '{side}'/gpu.$gpu || echo "$gpu is in use"
done
sleep 0.{tenths}
for gpu in $(echo "$CUDA_VISIBLE_DEVICES" | tr , ' '); do
  rmdir '{side}'/gpu.$gpu
done
"""
"""A directory for each device while it is used: what was given twice cannot be made."""


def drop(live: Live, name: str, words: str) -> None:
    """Drop a job that runs until its gate is opened, and tells what it was given."""
    gate = live.gate(name)
    told = f'echo "{"".join(f"${{{device}-unset}};" for device in DEVICES)}"\n'
    live.drop(name, f"#!/bin/sh\n#PMJQ {words}\n{live.side_effect(name)}{told}{gate.wait}exit 0\n")


def release(live: Live, name: str) -> str:
    """Let a job end; return what it wrote."""
    live.let_go(name)
    filed = live.ended(name)
    assert filed.record.state is State.DONE, filed.text
    return filed.text


def test_given_and_told(tmp_path: Path) -> None:
    """A job sees its own, whatever its environment says; one that asks for none sees none."""
    with Live(tmp_path, *GPUS) as live:
        drop(live, "two", "gpus=2 env=CUDA_VISIBLE_DEVICES=4")
        eventually(lambda: live.runs("two"))
        drop(live, "none", "env=CUDA_VISIBLE_DEVICES=0")
        drop(live, "three", "gpus=3")
        eventually(lambda: live.runs("three") and live.runs("none"))
        drop(live, "one", "gpus=1")
        assert live.aside("one") == "needs 1 GPUs, and 0 of 5 are free"
        live.drop("six", "#!/bin/sh\n#PMJQ gpus=6\n")
        assert live.aside("six") == "needs 6 GPUs, and there are 5"
        assert live.node()["gpus"] == ["0", "1", "2", "3", "GPU-5"]
        assert release(live, "two") == "0,1;0,1;0,1;\n"
        assert release(live, "none") == ";;;\n"
        eventually(lambda: live.runs("one"))
        assert release(live, "three") == "2,3,GPU-5;2,3,GPU-5;2,3,GPU-5;\n"
        assert release(live, "one") == "0;0;0;\n"
        assert live.ended("two").record.gpus == ("0", "1")


def test_node_without(tmp_path: Path) -> None:
    """A node that gives none changes no variable, and leaves who asks for one to others."""
    with Live(tmp_path, "-j", "2") as live:
        drop(live, "none", "env=CUDA_VISIBLE_DEVICES=7")
        drop(live, "one", "gpus=1")
        assert live.aside("one") == "needs 1 GPU, and this node gives none (--gpus)"
        assert release(live, "none") == "7;unset;unset;\n"


def test_what_runs_on_keeps_its_own(tmp_path: Path) -> None:
    """Also when the daemon that gave it is killed, and the keeper too."""
    with Live(tmp_path, *GPUS) as live:
        drop(live, "three", "gpus=3")
        eventually(lambda: live.runs("three"))
        live.kill()
        live.start()
        drop(live, "two", "gpus=2")
        drop(live, "one", "gpus=1")
        eventually(lambda: live.runs("two"))
        assert live.aside("one") == "needs 1 GPUs, and 0 of 5 are free"
        live.kill()
        live.start()
        assert release(live, "two") == "3,GPU-5;3,GPU-5;3,GPU-5;\n"
        assert release(live, "three") == "0,1,2;0,1,2;0,1,2;\n"
        assert release(live, "one") != ""


@pytest.mark.parametrize("kills", [0, 4])
def test_no_gpu_is_given_twice(tmp_path: Path, kills: int, say: Say) -> None:
    """However many jobs ask, and however often the daemon is killed and started again."""
    jobs = 60
    with Live(tmp_path, *GPUS) as live:
        for number in range(jobs):
            uses = USES.format(side=live.side, tenths=1 + number % 3)
            live.drop(f"j{number}", f"#!/bin/sh\n#PMJQ gpus={number % 4}\n{uses}")
        for kill in range(kills):
            eventually(lambda kill=kill: len(live.filed()) >= 8 * (kill + 1), within=60)  # type: ignore[misc]  # bound at once
            live.kill()
            live.start()
        eventually(lambda: len(live.filed()) == jobs, within=120)
        used = {gpu for filed in live.filed() for gpu in filed.record.gpus}
        assert used == {"0", "1", "2", "3", "GPU-5"}
        assert [filed.text for filed in live.filed() if filed.text] == []
        for number in range(jobs):
            record = live.ended(f"j{number}").record
            assert (record.state, len(record.gpus)) == (State.DONE, number % 4)
        say(f"{jobs} jobs on 5 GPUs, the daemon killed {kills} times: none was given twice")


def test_numbers_mean_the_same_to_all() -> None:
    """CUDA counts as the others do."""
    assert NUMBERED == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_auto(tmp_path: Path) -> None:
    """As many as there are device files, or as the driver tells of; controls are none."""
    devices, driver = tmp_path / "dev", tmp_path / "driver"
    for path in (devices, driver):
        path.mkdir()
    assert gpus(str(devices), str(driver)) == gpus("/nowhere", "/nowhere") == 0
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm", "null"):
        (devices / name).touch()
    assert gpus(str(devices), str(driver)) == 2
    for name in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (driver / name).mkdir()
    assert gpus(str(devices), str(driver)) == 3


@pytest.mark.parametrize("text", ["", "0,0", "0,", "0 1", "a;b", ","])
def test_wrong_list(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is touched."""
    assert main(["--gpus", text, str(tmp_path)]) == 64
    assert f"--gpus {text}: name each GPU once" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
