"""The store: tables, migrations, typed readers and writers, import and export. The only room with SQL.

`Store` is synchronous and thread-safe, on SQLite (a file) or PostgreSQL. Every write is one transaction that also
appends to the event log; nothing that was judged is ever overwritten. Knows nothing of models or pages.
"""

from prefloop.store.accounts import Account, AccountLink, AccountRole, Accounts, ApiToken, Researcher
from prefloop.store.announcements import Announcement, Announcements
from prefloop.store.arrivals import Arrivals, PlatformArrival
from prefloop.store.asking import Asking
from prefloop.store.care import Care, CareCounts, PracticeAnswer
from prefloop.store.checks import Check, CheckCounts, CheckItem, Checks
from prefloop.store.collecting import Collecting, ConversationStanding, JudgingPace
from prefloop.store.columns import BATCH, Batch, Columns, ComparisonColumns, JudgmentColumns, ScoreColumns, TurnColumns
from prefloop.store.comparisons import Comparisons
from prefloop.store.conversations import Conversations
from prefloop.store.decisions import DecisionKind, Decisions, WorkerDecision, WorkerStanding
from prefloop.store.edits import Edits
from prefloop.store.imports import Imports
from prefloop.store.judgments import Judgments
from prefloop.store.monitoring import Latest, Monitoring, StudyCounts, WorkerCount
from prefloop.store.payments import Earning, Payment, Payments
from prefloop.store.people import People
from prefloop.store.phases import Phases
from prefloop.store.places import Places, PlacesLeft
from prefloop.store.reading import Reading
from prefloop.store.records import Records
from prefloop.store.reports import Reports
from prefloop.store.results import Results
from prefloop.store.standings import SnapshotWins, Standings
from prefloop.store.studies import Studies
from prefloop.store.views import (
    Agreement,
    Answer,
    ComparisonRecord,
    Continuation,
    Event,
    ExportReport,
    ImportReport,
    JudgedComparison,
    StudyProgress,
    TaskAnswers,
    TimeCredit,
    WorkerReport,
)
from prefloop.store.workforce import FoundMessage, WorkerFigures, Workforce

__all__ = [
    "BATCH",
    "Account",
    "AccountLink",
    "AccountRole",
    "Agreement",
    "Announcement",
    "Answer",
    "ApiToken",
    "Batch",
    "CareCounts",
    "Check",
    "CheckCounts",
    "CheckItem",
    "ComparisonColumns",
    "ComparisonRecord",
    "Continuation",
    "ConversationStanding",
    "DecisionKind",
    "Earning",
    "Event",
    "ExportReport",
    "FoundMessage",
    "ImportReport",
    "JudgedComparison",
    "JudgingPace",
    "JudgmentColumns",
    "Latest",
    "Payment",
    "PlacesLeft",
    "PlatformArrival",
    "PracticeAnswer",
    "Researcher",
    "ScoreColumns",
    "SnapshotWins",
    "Store",
    "StudyCounts",
    "StudyProgress",
    "TaskAnswers",
    "TimeCredit",
    "TurnColumns",
    "WorkerCount",
    "WorkerDecision",
    "WorkerFigures",
    "WorkerReport",
    "WorkerStanding",
]


class Store(
    Studies,
    People,
    Accounts,
    Phases,
    Conversations,
    Comparisons,
    Places,
    Judgments,
    Edits,
    Reports,
    Decisions,
    Payments,
    Workforce,
    Care,
    Checks,
    Announcements,
    Arrivals,
    Asking,
    Collecting,
    Reading,
    Columns,
    Monitoring,
    Standings,
    Results,
    Imports,
    Records,
):
    """All parts of the store on one database: `with Store.open("sqlite:///prefloop.db") as store: ...`"""
