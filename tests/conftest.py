"""Fixtures of the whole project: databases on both engines, the real data's folder, the browser.

What is missing is skipped with its reason; where PREFLOOP_REQUIRE (a comma list of browser, gpu, postgres, real_data)
names it, it fails instead. The run ends with a list of every skipped test.
"""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings

from prefloop.store import Store
from prefloop.store.migrations import HEAD
from prefloop.store.tables import metadata

REPOSITORY = Path(__file__).resolve().parents[1]
NEEDS = {"gpu": "gpu", "data_root": "real_data", "chromium_path": "browser", "postgres_cluster": "postgres"}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, marker in NEEDS.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(marker)
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("store_url") == "postgresql":
            item.add_marker("postgres")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("skipped tests")
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"{report.nodeid}: {reason.removeprefix('Skipped: ')}")


def missing(what: str, reason: str) -> NoReturn:
    """Skips, or fails where PREFLOOP_REQUIRE names `what`."""
    required = [name.strip() for name in os.environ.get("PREFLOOP_REQUIRE", "").split(",")]
    if what in required:
        pytest.fail(f"{reason} (PREFLOOP_REQUIRE names {what})", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of the real data sets."""
    folder = Path(os.environ.get("PREFLOOP_DATA_ROOT") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "hh-rlhf").is_dir():
        missing("real_data", f"no real data at {folder}: set PREFLOOP_DATA_ROOT to the folder that holds hh-rlhf/")
    return folder


@pytest.fixture(scope="session")
def gpu() -> str:
    """The name of a GPU."""
    import torch

    if not torch.cuda.is_available():
        missing("gpu", "no GPU that torch can use")
    return "cuda"


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The program file of Chromium."""
    for name in BROWSERS:
        if path := shutil.which(name):
            return path
    missing("browser", f"no browser: none of {', '.join(BROWSERS)} is on the PATH")


class PostgresCluster:
    """A private PostgreSQL server in a temporary folder, reached by a socket in it, with a migrated template."""

    def __init__(self, folder: Path, programs: Path, as_postgres: list[str], is_durable: bool = False) -> None:
        self._folder, self._programs, self._as_postgres, self._is_durable = folder, programs, as_postgres, is_durable
        self._numbers = count(1)
        self._current: str | None = None

    @classmethod
    def found(cls, is_durable: bool = False) -> PostgresCluster:
        """A cluster in a new folder, by the programs of this machine; skips where they are missing.

        Args:
            is_durable: with its defaults, for measurements; else without fsync, which tests do not need (the server
                itself is never killed in them, only its clients).
        """
        on_path = shutil.which("initdb")
        found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: float(Path(path).parts[4]))
        if not found and not on_path:
            missing("postgres", "no PostgreSQL server: initdb is neither on the PATH nor in /usr/lib/postgresql/*/bin")
        programs = Path(found[-1] if found else str(on_path)).parent
        as_postgres: list[str] = []
        account = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            try:
                account = pwd.getpwnam("postgres")
            except KeyError:
                missing("postgres", "PostgreSQL does not run as root and there is no account named postgres")
            if setpriv := shutil.which("setpriv"):
                as_postgres = [setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
            elif runuser := shutil.which("runuser"):
                as_postgres = [runuser, "-u", "postgres", "--"]
            else:
                missing("postgres", "PostgreSQL does not run as root and neither setpriv nor runuser is there")
        folder = Path(tempfile.mkdtemp(prefix="prefloop-postgres-"))
        if account is not None:
            shutil.chown(folder, account.pw_uid, account.pw_gid)
        return cls(folder, programs, as_postgres, is_durable)

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self._folder}'"
        if not self._is_durable:
            options += " -c fsync=off -c autovacuum=off"
        data = str(self._folder / "data")
        self._run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
        self._run("pg_ctl", "start", "-w", "-D", data, "-l", str(self._folder / "log"), "-o", options)
        self.execute("CREATE DATABASE template_prefloop")
        Store.open(self.url("template_prefloop")).close()

    def stop(self) -> None:
        self._run("pg_ctl", "stop", "-m", "immediate", "-D", str(self._folder / "data"))

    def remove(self) -> None:
        """Stops the server, if it runs, and takes its folder away."""
        if (self._folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_postgres, str(self._programs / program), *arguments]
        # Output goes to a file: the server that pg_ctl leaves behind would keep a pipe open for ever.
        with (self._folder / "output").open("ab") as output:
            done = subprocess.run(command, stdout=output, stderr=output, cwd=self._folder, check=False)
        if done.returncode:
            raise RuntimeError(f"{program} failed: {(self._folder / 'output').read_text()}")

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://postgres@/{database}?host={self._folder}"

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """One statement outside of any transaction; its rows."""
        import psycopg

        with psycopg.connect(f"host={self._folder} user=postgres dbname={database}", autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self) -> Iterator[str]:
        """The URL of an empty migrated database.

        It is emptied and used again, because making one takes PostgreSQL half a second; a test that leaves another
        revision behind costs a new one.
        """
        if self._current is None:
            self._current = f"test_{next(self._numbers)}"
            self.execute(f"CREATE DATABASE {self._current} TEMPLATE template_prefloop")
        yield self.url(self._current)
        others = f"FROM pg_stat_activity WHERE datname = '{self._current}' AND pid <> pg_backend_pid()"
        self.execute(f"SELECT pg_terminate_backend(pid) {others}")
        if self.execute("SELECT version_num FROM alembic_version", self._current) == [(HEAD,)]:
            tables = ", ".join(f'"{table.name}"' for table in metadata.sorted_tables)
            self.execute(f"TRUNCATE {tables} RESTART IDENTITY", self._current)
        else:
            self._current = None


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """One PostgreSQL server for the whole run."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        missing("postgres", "no PostgreSQL driver: pip install 'prefloop[postgres]'")
    cluster = PostgresCluster.found()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty SQLite file to copy."""
    file = tmp_path_factory.mktemp("template") / "prefloop.db"
    Store.open(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """The URL of a fresh migrated SQLite file."""
    file = tmp_path / "prefloop.db"
    shutil.copyfile(sqlite_template, file)
    return f"sqlite:///{file}"


@pytest.fixture
def postgres_url(postgres_cluster: PostgresCluster) -> Iterator[str]:
    """The URL of an empty migrated PostgreSQL database."""
    yield from postgres_cluster.database()


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of a fresh migrated database, on each engine in turn."""
    url: str = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    return url


@pytest.fixture
def store(store_url: str) -> Iterator[Store]:
    """A fresh store, on each engine in turn."""
    with Store.open(store_url) as opened:
        yield opened


@pytest.fixture(scope="session")
def bert_tokenizer() -> Any:
    """A tokenizer of BERT's kind: [CLS] and [SEP], no BOS and no EOS; a few words and all letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    known = "what is the time it late go home now and then tell me more about rivers human assistant : ? . ,"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *known.split(), *letters, *(f"##{one}" for one in letters)]
    places = {word: place for place, word in enumerate(dict.fromkeys(words))}
    plain = Tokenizer(models.WordPiece(places, unk_token="[UNK]"))
    plain.normalizer = normalizers.BertNormalizer()
    plain.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(
        tokenizer_object=plain,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=512,
    )


@pytest.fixture(scope="session")
def bert_folder(bert_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random BERT with 512 positions, a masked language model as the hub has them."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from prefloop.models.language import save_model

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(bert_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    )
    return save_model(BertForMaskedLM(config), bert_tokenizer, tmp_path_factory.mktemp("encoder") / "bert")


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes tiny random models as the hub has them, with the tokenizers of their families (see `make_hub_folder`)."""

    def make(
        family: str, *, head: bool = False, pad: str | None = None, template: str | None = None, window: int = 96
    ) -> Path:
        return make_hub_folder(tmp_path_factory.mktemp(family) / family, family, head, pad, template, window)

    return make


HUB_ENDS = {"gpt2": "<|endoftext|>", "gpt_neox": "<|endoftext|>", "llama": "</s>", "qwen3": "<|im_end|>"}


def make_hub_folder(
    folder: Path, family: str, head: bool, pad: str | None, template: str | None, positions: int
) -> Path:
    """A tiny random model, and a tokenizer without padding, or with `pad` for it.

    gpt2 has one special token for all purposes, gpt_neox an unused <|padding|> too, llama <s> and </s>, qwen3 those of
    ChatML; the embeddings of gpt_neox and qwen3 go beyond their vocabularies. With a head it is a preference model as
    other libraries leave them: `config.pad_token_id` is the id of `pad`, or None.
    """
    import torch
    import transformers as hf
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    end = HUB_ENDS[family]
    begin = {"llama": "<s>", "qwen3": None}.get(family, end)
    specials = [end, *([begin] if begin not in (None, end) else [])]
    specials += {"gpt_neox": ["<|padding|>"], "qwen3": ["<|endoftext|>", "<|im_start|>"]}.get(family, [])
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    teacher = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(["what is the time", "so what is it, it is late, go home"] * 20, teacher)
    tokens = hf.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=begin,
        eos_token=end,
        unk_token=end if family.startswith("gpt") else None,
        pad_token=pad,
        additional_special_tokens=specials[1:],
        chat_template=template,
    )
    vocabulary = len(tokens) if family in ("gpt2", "llama") else -(-len(tokens) // 64) * 64
    ids = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id}
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    window = {"vocab_size": vocabulary, "max_position_embeddings": positions, **shape, **ids}
    configs: dict[str, Callable[[], Any]] = {
        "gpt2": lambda: hf.GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=positions, **ids
        ),
        "gpt_neox": lambda: hf.GPTNeoXConfig(**window),
        "llama": lambda: hf.LlamaConfig(**window, num_key_value_heads=2),
        "qwen3": lambda: hf.Qwen3Config(**window, num_key_value_heads=2, head_dim=8),
    }
    config = configs[family]()
    config.pad_token_id, config.initializer_range = (tokens.pad_token_id if head else None), 0.2
    kind: Any = hf.AutoModelForCausalLM
    if head:
        config.num_labels, kind = 1, hf.AutoModelForSequenceClassification
    torch.manual_seed(0)
    kind.from_config(config).save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder
