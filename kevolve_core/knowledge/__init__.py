"""What is known about targets, languages and failures, found by diagnosis. Start at `KnowledgeBase`."""

from kevolve_core.knowledge.base import Folder, KnowledgeBase
from kevolve_core.knowledge.diagnosis import question
from kevolve_core.knowledge.folders import base_for, user_folders
from kevolve_core.knowledge.index import Hit, Query
from kevolve_core.knowledge.page import Page

__all__ = ["Folder", "Hit", "KnowledgeBase", "Page", "Query", "base_for", "question", "user_folders"]
