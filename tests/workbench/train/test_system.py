"""How busy the machine is, with a driver that is not there."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from tests.workbench.opening import app_with
from tests.workbench.scripted import scripted_run
from tests.workbench.waiting import shown, until
from workbench.train.machine import Gpu, Machine, Measurement, describe_machine
from workbench.train.machine_line import MachineLine


class NVMLError(Exception):
    pass


class NVMLErrorNotSupported(NVMLError):
    pass


class FakeNvml(ModuleType):
    """Two GPUs, as NVIDIA's library describes them; the second does not tell its power."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NVMLErrorNotSupported
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.driver = driver
        self.begun = 0

    def nvmlInit(self) -> None:
        self.begun += 1
        if not self.driver:
            raise NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUtilizationRates(self, device: int) -> Any:
        return SimpleNamespace(gpu=90 + device, memory=3)

    def nvmlDeviceGetMemoryInfo(self, device: int) -> Any:
        return SimpleNamespace(used=5_000_000_000 + device, total=80_000_000_000, free=1)

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:
        if device:
            raise NVMLErrorNotSupported
        return 312_400

    def nvmlDeviceGetTemperature(self, device: int, _sensor: int) -> int:
        return 61 + device


def test_gpus_are_read_in_the_units_shown() -> None:
    nvml = FakeNvml()
    machine = Machine(nvml)
    first, second = machine.measure().gpus
    assert first == Gpu(0, 90.0, 5_000_000_000, 80_000_000_000, 312.4, 61.0)
    assert (second.watts, second.celsius) == (None, 62.0)
    machine.measure()
    assert nvml.begun == 1


def test_without_a_driver_there_are_no_gpus_and_it_is_not_asked_again() -> None:
    nvml = FakeNvml(driver=False)
    machine = Machine(nvml)
    assert [machine.measure().gpus, machine.measure().gpus] == [(), ()]
    assert nvml.begun == 1


def test_the_machine_itself_is_read() -> None:
    reading = Machine().measure()
    assert 0 <= reading.cpu_percent <= 100
    assert 0 < reading.memory_used <= reading.memory_total


def test_a_reading_in_words() -> None:
    reading = Measurement(
        12.4, 3_000_000_000, 16_000_000_000, (Gpu(0, 90.0, 5_000_000_000, 80_000_000_000, 312.4, 61.0),)
    )
    assert describe_machine(reading) == "CPU 12%  memory 3 GB of 16 GB   GPU 0 90% 5 GB of 80 GB 312 W 61 °C"


async def test_it_is_shown_where_there_is_room(home: Path) -> None:
    scripted_run(home, "old-1", 60, end="stopped")
    app = app_with(home)
    async with app.run_test(size=(160, 50)) as pilot:
        await pilot.press("2")
        await until(pilot, lambda: "old-1" in shown(app.screen))
        line = app.screen.query_one(MachineLine)
        line.machine = Machine(FakeNvml())
        line.measure()
        await until(pilot, lambda: "GPU 1 91%" in shown(app.screen) and "312 W 61 °C" in shown(app.screen))
        await pilot.resize_terminal(80, 24)
        await until(pilot, lambda: "GPU 1" not in shown(app.screen))
