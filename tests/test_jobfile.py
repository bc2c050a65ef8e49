from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from costguard import engines, preflight
from costguard.core.spec import JobSpec, spec_from_json
from costguard.errors import UserError
from costguard.jobfile import check_name, load_job, parse_duration_ms
from costguard.providers import REGISTRY
from costguard.settings import PROVIDERS
from costguard.tomlfile import loads

TRAINER_JOB = """
[job]
name = "kefu"
project = "support-bot"
budget_yuan = 80
[instance]
provider = "local"
gpu = "RTX 3090"
max_price_yuan_per_hour = "16.5"
keep_for = "7d"
[training]
model_name_or_path = "Qwen/Qwen2.5-7B-Instruct"
dataset = "data/train.jsonl"
quantization_bit = 4
learning_rate = 2e-4
[[stages]]
max_samples = 100
gate_loss_drop_percent = 10
[guards]
idle_after = "5m"
stall_floor = "90s"
max_hours = 1.5
[artifacts]
pull_to = "out/"
"""

COMMAND_JOB = """
[job]
name = "kefu"
budget_yuan = "2.5"
[instance]
provider = "local"
[training]
engine = "command"
command = ["python3", "x.py"]
upload = ["x.py", "data/"]
"""

ROW = {"instruction": "问题", "input": "", "output": "回答"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A job's folder: a good data set, a script, a job file for the trainer."""
    (tmp_path / "data").mkdir()
    rows = [json.dumps(ROW | {"instruction": f"问题{index}"}) for index in range(3)]
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "x.py").write_text("print(1)")
    (tmp_path / "job.toml").write_text(TRAINER_JOB, encoding="utf-8")
    return tmp_path


def load(folder: Path, text: str, budget: str | None = None) -> JobSpec:
    """The job of a file with this text."""
    (folder / "job.toml").write_text(text, encoding="utf-8")
    return load_job(folder / "job.toml", budget)


def refusal(folder: Path, text: str, budget: str | None = None) -> UserError:
    """The error that a file with this text gives; it is always one that refuses before renting."""
    with pytest.raises(UserError) as caught:
        load(folder, text, budget)
    assert caught.value.exit_code == 7
    return caught.value


def test_a_job_for_the_trainer(folder: Path) -> None:
    """The contract's keys become whole units, the trainer's flags an argument list."""
    spec = load_job(folder / "job.toml", best_effort=True)
    assert (spec.name, spec.project, spec.cap_micros) == ("kefu", "support-bot", 80_000_000)
    assert spec.best_effort
    assert spec.instance.max_price_micros_per_hour == 16_500_000
    assert spec.instance.keep_for_ms == 7 * 86_400_000
    assert (spec.guards.idle_after_ms, spec.guards.stall_floor_ms) == (300_000, 90_000)
    assert spec.guards.max_ms == 5_400_000
    assert spec.pull_to == str(folder / "out")
    assert spec.stages[0].gate_loss_drop_percent == 10
    run = spec.runs[0]
    assert " ".join(run.argv) == (
        "{python} -m trainer train --model_name_or_path Qwen/Qwen2.5-7B-Instruct "
        "--dataset data/train.jsonl --output_dir output --model_source modelscope "
        "--max_samples 100 "
        "--quantization_bit=4 --learning_rate=0.0002"
    )
    assert run.expects_adapter
    assert set(run.needs) == {"torch", "transformers", "peft", "bitsandbytes", "accelerate"}
    assert run.hosts == ("www.modelscope.cn",)


def test_what_the_trainer_needs_is_uploaded(folder: Path) -> None:
    """Its sources go along, without examples and caches, and the data set under data/."""
    run = load_job(folder / "job.toml").runs[0]
    remote = {upload.remote: upload.local for upload in run.uploads}
    assert remote["data/train.jsonl"] == str(folder / "data" / "train.jsonl")
    assert {"trainer/__main__.py", "trainer/flags.py"} < remote.keys()
    assert "trainer/locale/zh_CN/LC_MESSAGES/trainer.mo" in remote
    assert run.env == {"LANGUAGE": "en"}
    assert all(name.endswith((".py", ".mo", ".jsonl")) for name in remote)
    assert not any("example" in name or "__pycache__" in name for name in remote)
    assert all(Path(local).is_file() for local in remote.values())


def test_the_trainers_examples_stay_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be uploaded on paid time, and nothing over there reads them."""
    (folder / "trainer" / "examples").mkdir(parents=True)
    (folder / "trainer" / "__main__.py").write_text("")
    (folder / "trainer" / "examples" / "make.py").write_text("")
    monkeypatch.setattr(engines, "trainer_root", lambda: folder / "trainer")
    run = load_job(folder / "job.toml").runs[0]
    assert [upload.remote for upload in run.uploads] == ["trainer/__main__.py", "data/train.jsonl"]


def test_the_spec_survives_its_own_json(folder: Path) -> None:
    """What is sent to the daemon is what was loaded."""
    spec = load_job(folder / "job.toml")
    assert spec_from_json(spec.to_json()) == spec


def test_a_job_with_a_command(folder: Path) -> None:
    """The command is taken as it stands, uploads keep their relative places."""
    spec = load(folder, COMMAND_JOB)
    assert spec.cap_micros == 2_500_000
    assert spec.runs[0].argv == ("python3", "x.py")
    assert not spec.runs[0].expects_adapter
    assert spec.runs[0].schedule is None  # it may judge whenever it likes
    assert [upload.remote for upload in spec.runs[0].uploads] == ["x.py", "data"]


def test_an_upload_from_elsewhere_keeps_its_last_name(folder: Path) -> None:
    """Nothing is put outside the job's folder over there, wherever it comes from."""
    (folder / "inner").mkdir()
    (folder / "inner" / "job.toml").write_text(COMMAND_JOB.replace('"x.py", "data/"', '"../x.py"'))
    spec = load_job(folder / "inner" / "job.toml")
    assert spec.runs[0].uploads[0].remote == "x.py"


def test_two_uploads_for_one_place_are_refused(folder: Path) -> None:
    """Which of them should win would be a guess."""
    (folder / "other").mkdir()
    (folder / "other" / "x.py").write_text("print(2)")
    elsewhere = str(folder / "other" / "x.py")
    error = refusal(folder, COMMAND_JOB.replace('"data/"', f'"{elsewhere}"'))
    assert "would both become x.py" in error.what


def test_a_local_model_is_uploaded(folder: Path) -> None:
    """`model_source = "path"` takes a folder here; one that is not here is the instance's."""
    (folder / "tiny").mkdir()
    (folder / "tiny" / "config.json").write_text("{}")
    text = TRAINER_JOB.replace("dataset =", 'model_source = "path"\ndataset =')
    here = load(folder, text.replace("Qwen/Qwen2.5-7B-Instruct", "tiny")).runs[0]
    assert here.argv[5] == "model"
    assert any(upload.remote == "model" for upload in here.uploads)
    there = load(folder, text.replace("Qwen/Qwen2.5-7B-Instruct", "/root/models/qwen")).runs[0]
    assert there.argv[5] == "/root/models/qwen"
    assert not any(upload.remote == "model" for upload in there.uploads)
    assert there.places == ("/root/models/qwen",)
    assert "begins with /" in refusal(folder, text.replace("Qwen/Qwen2.5-7B-Instruct", "tyny")).what


def test_the_budget_option_overrides_the_file(folder: Path) -> None:
    """`--budget` wins, and is judged by the same rules."""
    assert load(folder, TRAINER_JOB, "0.35").cap_micros == 350_000
    assert refusal(folder, TRAINER_JOB, "abc").where == "--budget"


@pytest.mark.parametrize("value", ["-5", '"abc"', "0", '"0"', "true", "[80]", "nan", "inf", '""'])
def test_a_wrong_budget_is_one_message(folder: Path, value: str) -> None:
    """No sum, no job: the message is about the budget, on its line, and says what to write."""
    error = refusal(folder, TRAINER_JOB.replace("budget_yuan = 80", f"budget_yuan = {value}"))
    assert error.code == "bad_budget"
    assert error.where.endswith("line 5, [job] budget_yuan")
    assert "budget_yuan = 80" in error.hint


def test_no_budget_at_all_is_refused(folder: Path) -> None:
    """Without a cap nothing is ever rented."""
    error = refusal(folder, TRAINER_JOB.replace("budget_yuan = 80\n", ""))
    assert (error.code, error.what) == ("bad_budget", "there is no budget")


@pytest.mark.parametrize(
    ("old", "new", "what", "where", "hint"),
    [
        ('name = "kefu"', 'nmae = "kefu"', "unknown key `nmae`", "line 3, [job] nmae", "`name`"),
        ("gpu =", "gpo =", "unknown key `gpo`", "line 8, [instance] gpo", "`gpu`"),
        ("project =", "gpu =", "unknown key `gpu`", "[job] gpu", "under [instance]"),
        ("[guards]", "[gards]", "unknown key `gards`", "line 19, [gards]", "`guards`"),
        (
            "max_samples",
            "max_sample",
            "unknown key `max_sample`",
            "[[stages]] (1) max_sample",
            "`max_samples`",
        ),
        (
            "learning_rate",
            "learning_rat",
            "unknown key `learning_rat`",
            "line 15, [training] learning_rat",
            "`learning_rate`",
        ),
        ("dataset =", "datset =", "unknown key `datset`", "[training] datset", "`dataset`"),
        ("2e-4", '"fast"', "invalid float value", "[training] learning_rate", ""),
        ("_bit = 4", "_bit = 8", "quantization_bit", "[training] quantization_bit", "NF4"),
        ("learning_rate", "max_samples", "unknown key", "[training]", "[[stages]]"),
        ('"local"', '"lcoal"', "unknown provider `lcoal`", "line 7, [instance] provider", "local"),
        ('"local"', '"ssh"', "which machine with SSH", "[instance] id", "none yet"),
        ('"local"', '"ssh.box1"', "no machine 'box1'", "[instance] id", "none yet"),
        ('"kefu"', '"a/b"', "cannot be a name", "line 3, [job] name", ""),
        ('"kefu"', "5", "text in quotes", "[job] name", ""),
        ('"5m"', "5", "no duration", "[guards] idle_after", ""),
        ('"5m"', '"0s"', "zero", "[guards] idle_after", ""),
        ("= 100", "= 0", 'neither "all" nor', "[[stages]] (1) max_samples", ""),
        ("= 100", '= 100\nstart = "previous"', "none before it", "[[stages]] (1) start", ""),
        ("quantization_bit", 'engine = "trianer"\nx', "'trianer' is none of", "engine", "trainer"),
        ("quantization_bit", 'output_dir = "../o"\nx', "inside the job's own", "output_dir", ""),
        (
            'keep_for = "7d"',
            'id = "mine"\nafter_finish = "release"',
            "was there before",
            "[instance] after_finish",
            "costguard release",
        ),
        ('keep_for = "7d"', "gpu_count = 2", "would idle", "[instance] gpu_count", "leave"),
        ("[job]", "[job", "not TOML", "line 2", "[name]"),
        ("[instance]", "", "unknown key `provider`", "[job]", "under [instance]"),
    ],
)
def test_a_mistake_is_one_message_that_says_where(
    folder: Path, old: str, new: str, what: str, where: str, hint: str
) -> None:
    """Each mistake names the thing, its line or table, and what was probably meant."""
    error = refusal(folder, TRAINER_JOB.replace(old, new, 1))
    assert what in error.what
    assert error.where.startswith(str(folder / "job.toml"))
    assert where in error.where
    assert hint in error.hint


def test_a_missing_job_file_is_one_message(folder: Path) -> None:
    """The path is named and nothing else is tried."""
    with pytest.raises(UserError, match="No such file") as caught:
        load_job(folder / "none.toml")
    assert caught.value.where == str(folder / "none.toml")


@pytest.mark.parametrize(
    ("make", "what"),
    [("missing", "does not exist"), ("empty", "is empty"), ("folder", "is not a file")],
)
def test_a_data_set_that_is_not_there_is_refused(folder: Path, make: str, what: str) -> None:
    """Missing, empty or a folder: said before anything is asked of anyone."""
    data = folder / "data" / "train.jsonl"
    data.unlink()
    if make == "empty":
        data.touch()
    elif make == "folder":
        data.mkdir()
    error = refusal(folder, TRAINER_JOB)
    assert what in error.what
    assert error.where.endswith("[training] dataset")


def test_a_row_that_is_not_json_is_refused_with_its_line(folder: Path) -> None:
    """The trainer's check, run as a program, has the last word on the data."""
    with (folder / "data" / "train.jsonl").open("a") as stream:
        stream.write("\n{oops\n")
    error = refusal(folder, TRAINER_JOB)
    assert error.code == "bad_dataset"
    assert "line 4: not JSON" in error.what
    assert error.where == f"{folder / 'data' / 'train.jsonl'}:4"
    assert "costguard data check" in error.hint


def test_a_data_set_in_an_unknown_format_is_refused(folder: Path) -> None:
    """A file that the trainer cannot read at all is refused with its own words."""
    (folder / "data" / "train.xlsx").write_bytes(b"PK")
    error = refusal(folder, TRAINER_JOB.replace("train.jsonl", "train.xlsx"))
    assert "jsonl" in error.hint


def test_a_checker_that_breaks_is_not_taken_for_a_pass(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a judgement there is no job."""
    broken = tmp_path / "package" / "trainer"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("")
    (broken / "__main__.py").write_text("raise SystemExit('no such luck')")
    monkeypatch.setattr(preflight, "trainer_root", lambda: broken)
    with pytest.raises(UserError, match="no such luck") as caught:
        preflight.data_report(folder / "data" / "train.jsonl")
    assert caught.value.code == "check_failed"


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("90s", 90_000),
        ("5m", 300_000),
        ("7d", 604_800_000),
        ("1h30m", 5_400_000),
        ("1.5h", 5_400_000),
        ("250ms", 250),
        (" 2 H ", 7_200_000),
    ],
)
def test_durations(text: str, ms: int) -> None:
    """Number and unit, several in a row if wanted."""
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    "value", ["", "5", "m", "5 minutes", "-5m", 300, Decimal(5), "9999d", None]
)
def test_what_is_no_duration(value: object) -> None:
    """A bare number has no unit, and guessing one may cost a night."""
    with pytest.raises(ValueError, match=r"duration|ten years"):
        parse_duration_ms(value)


@pytest.mark.parametrize("name", ["kefu", "客服-1", "a.b_c", "x" * 64, "é"])
def test_names_in_any_script(name: str) -> None:
    """Letters and digits of any script name a job."""
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".a", "a b", "a/b", "x" * 65, "a\n", "a😀", "a\u202eb"])
def test_names_that_would_break_something(name: str) -> None:
    """Blanks, slashes, control and direction characters, options and hidden files are refused."""
    with pytest.raises(ValueError, match="cannot be a name"):
        check_name(name)


def test_each_stage_is_a_run_of_its_own(folder: Path) -> None:
    """The first N samples, then all of them."""
    text = TRAINER_JOB.replace("[guards]", '[[stages]]\nmax_samples = "all"\n[guards]')
    first, second = load(folder, text).runs
    assert first.argv[first.argv.index("--max_samples") + 1] == "100"
    assert "--max_samples" not in second.argv
    assert first.output_dir == second.output_dir


def test_a_command_of_ones_own_has_no_stages(folder: Path) -> None:
    """It could not be told how many samples to take."""
    text = COMMAND_JOB + "[[stages]]\nmax_samples = 1\n[[stages]]\nmax_samples = 2\n"
    assert "has no stages" in refusal(folder, text).what


def test_another_data_set_and_output_folder_go_before_the_files(folder: Path) -> None:
    """As `resume --data` needs them."""
    other = folder / "day2.jsonl"
    other.write_text(json.dumps(ROW) + "\n", encoding="utf-8")
    run = load_job(folder / "job.toml", dataset=other, output_suffix="-2").runs[0]
    assert run.output_dir == "output-2"
    assert "data/day2.jsonl" in run.argv


def test_a_stage_may_start_from_the_adapter_of_the_one_before(folder: Path) -> None:
    """The stages' folders lie beside one another on the instance."""
    stages = '[[stages]]\nmax_samples = "all"\nstart = "previous"\n[guards]'
    _first, second = load(folder, TRAINER_JOB.replace("[guards]", stages)).runs
    assert second.argv[second.argv.index("--init_adapter") + 1] == "../stage-0/output/adapter"


BOX = "[providers.ssh.{name}]\nssh = 'ssh root@127.0.0.1'\nprice_yuan_per_hour = 1\n"


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_platform_that_has_an_adapter_can_be_named(folder: Path, name: str) -> None:
    """What the job file takes is what the registry has, ssh aside."""
    assert set(PROVIDERS) == {*REGISTRY, "ssh"}
    text = COMMAND_JOB.replace('"local"', f'"{name}"\nid = "i-1"')
    (folder / "job.toml").write_text(text, encoding="utf-8")
    wish = load_job(folder / "job.toml").instance
    assert (wish.provider, wish.instance_id) == (name, "i-1")


@pytest.mark.parametrize(
    ("boxes", "written"),
    [
        (["box1"], '"ssh"'),
        (["box1", "box2"], '"ssh"\nid = "box1"'),
        (["box1", "box2"], '"ssh.box1"'),
    ],
)
def test_a_machine_with_ssh_is_the_one_named_or_the_only_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, boxes: list[str], written: str
) -> None:
    """It is adopted, never made: its name is its id."""
    monkeypatch.setenv("COSTGUARD_HOME", str(folder))
    (folder / "config.toml").write_text("".join(BOX.format(name=name) for name in boxes))
    (folder / "job.toml").write_text(COMMAND_JOB.replace('"local"', written), encoding="utf-8")
    wish = load_job(folder / "job.toml").instance
    assert (wish.provider, wish.instance_id) == ("ssh.box1", "box1")


def test_the_description_of_the_data_travels_with_them(folder: Path) -> None:
    """Columns named in it would otherwise be unknown on the rented machine, at its price."""
    (folder / "data" / "dataset_info.json").write_text("{}", encoding="utf-8")
    run = load_job(folder / "job.toml").runs[0]
    assert "data/dataset_info.json" in {upload.remote for upload in run.uploads}


def test_the_data_are_judged_as_the_run_will_judge_them(folder: Path) -> None:
    """A share of bad rows that the run allows is allowed before the rent too."""
    with (folder / "data" / "train.jsonl").open("a", encoding="utf-8") as rows:
        rows.write("\nnot JSON")
    assert refusal(folder, TRAINER_JOB).code == "bad_dataset"
    text = TRAINER_JOB.replace("quantization_bit = 4", "quantization_bit = 4\nmax_bad_percent = 40")
    assert load(folder, text).runs[0].argv


def test_what_the_trainer_needs_is_what_its_package_says(folder: Path) -> None:
    """One list, in pyproject.toml; what pip is asked for on the instance is that, without torch."""
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    wanted = loads(text)["project"]["optional-dependencies"]["trainer"]
    run = load_job(folder / "job.toml").runs[0]
    assert [f"{name}>={version}" for name, version in run.least.items()] == wanted
    assert list(run.requirements) == wanted[1:]


def test_installing_is_allowed_unless_the_file_says_no(folder: Path) -> None:
    """Into an environment of our own, for a quarter of an hour."""
    spec = load_job(folder / "job.toml")
    assert spec.instance.install
    assert (spec.instance.packages, spec.instance.pip_index) == ((), None)
    assert spec.guards.install_within_ms == 900_000
    text = TRAINER_JOB.replace(
        "[training]",
        'install = false\npackages = ["liger-kernel>=0.8", "x[y] ; python_version > \'3\'"]\n'
        'pip_index = "https://mirror.example/simple"\npython = "/opt/env/bin/python"\n[training]',
    ).replace("[guards]", '[guards]\ninstall_within = "5m"')
    spec = load(folder, text)
    assert not spec.instance.install
    assert spec.instance.packages == ("liger-kernel>=0.8", "x[y] ; python_version > '3'")
    assert spec.instance.pip_index == "https://mirror.example/simple"
    assert spec.instance.python == "/opt/env/bin/python"
    assert spec.guards.install_within_ms == 300_000
    assert spec_from_json(spec.to_json()) == spec


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('packages = ["-r requirements.txt"]', "is no package as pip knows it"),
        ('packages = ["/root/x.whl"]', "is no package as pip knows it"),
        ('packages = ["Torch==2.9"]', "stays as the image has it"),
        ('packages = ["x @ https://me:pw@mirror.example/x.whl"]', "a password in it"),
        ('pip_index = "https://me:pw@mirror.example/simple"', "a password in it"),
        ('pip_index = "mirror.example"', "is no address"),
        ('hf_endpoint = "http://[::1"', "is no address"),
    ],
)
def test_what_would_lead_pip_astray_is_refused(folder: Path, line: str, what: str) -> None:
    """No options, no torch but the image's, and no secret on a rented machine."""
    error = refusal(folder, TRAINER_JOB.replace("[training]", f"{line}\n[training]"))
    assert what in error.what
    assert "me:pw" not in f"{error.what}{error.where}{error.hint}"


def test_mirrors_of_the_config_are_taken_unless_the_file_names_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paid minutes in China go into downloads: said once, for every job."""
    monkeypatch.setenv("COSTGUARD_HOME", str(folder))
    (folder / "config.toml").write_text(
        '[mirrors]\npip_index = "https://a.example/simple"\nhf_endpoint = "https://hf.example"\n'
    )
    own = TRAINER_JOB.replace("[training]", 'pip_index = "https://b.example/"\n[training]')
    spec = load(folder, own)
    assert spec.instance.pip_index == "https://b.example/"
    assert spec.instance.hf_endpoint == "https://hf.example"


def test_progress_is_found_in_a_commands_output(folder: Path) -> None:
    """By an expression that names the step; judged here as it will be over there."""
    text = COMMAND_JOB + "progress_pattern = 'step (?P<step>\\d+)'\n"
    assert load(folder, text).runs[0].progress_pattern == r"step (?P<step>\d+)"
    assert "no group (?P<step>...)" in refusal(folder, text.replace("?P<step>", "")).what
    assert "no regular expression" in refusal(folder, text.replace("+)", "+")).what
    misplaced = TRAINER_JOB.replace("[[stages]]", "progress_pattern = '(?P<step>.)'\n[[stages]]")
    assert 'is for engine = "command"' in refusal(folder, misplaced).what
