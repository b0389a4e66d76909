"""How the page looks: Gradio's variables in our colours, our own style sheet and script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from studio.ui.strings import translations

FOLDER = Path(__file__).parent

_INK = gr.themes.Color(
    name="ink", c50="#eef0fc", c100="#dde2fa", c200="#c0c8f4", c300="#9ca8ec", c400="#7686e0",
    c500="#5163d0", c600="#3a4bb8", c700="#303e98", c800="#293478", c900="#242d60", c950="#171d40",
)  # fmt: skip
_PAPER = gr.themes.Color(
    name="paper", c50="#faf8f5", c100="#f3f0eb", c200="#e6e1d9", c300="#d3ccc1", c400="#a8a096",
    c500="#7d766e", c600="#5f5a54", c700="#47433f", c800="#2a2829", c900="#1f1d20", c950="#161518",
)  # fmt: skip
_FONT = ("Segoe UI", "Helvetica Neue", "Liberation Sans", "Arial", "sans-serif")


def theme() -> gr.themes.Base:
    """Calm paper and ink, light and dark. Only fonts that are on the visitor's machine."""
    return gr.themes.Base(
        primary_hue=_INK, secondary_hue=_INK, neutral_hue=_PAPER,
        font=_FONT, font_mono=("ui-monospace", "monospace"),
        spacing_size="lg", radius_size="lg", text_size="md",
    ).set(
        body_background_fill="#faf8f5", body_background_fill_dark="#161518",
        body_text_color="#232126", body_text_color_dark="#efedf2",
        body_text_color_subdued="#5f5a54", body_text_color_subdued_dark="#b8b3bd",
        background_fill_primary="#ffffff", background_fill_primary_dark="#1f1d22",
        background_fill_secondary="#f6f3ee", background_fill_secondary_dark="#27252b",
        border_color_primary="#e2dcd3", border_color_primary_dark="#3a3740",
        block_background_fill="#ffffff", block_background_fill_dark="#1f1d22",
        block_border_width="1px", block_shadow="none", block_label_text_size="14px",
        block_title_text_weight="600", block_title_text_size="15px",
        block_title_text_color="#232126", block_title_text_color_dark="#efedf2",
        block_info_text_size="14px", checkbox_label_text_size="15px", input_text_size="16px",
        input_border_width="1px", input_border_width_dark="1px", checkbox_border_width="1px",
        button_border_width="1px", button_border_width_dark="1px", input_padding="11px 14px",
        block_label_text_color="#47433f", block_label_text_color_dark="#cfcad4",
        block_info_text_color="#5f5a54", block_info_text_color_dark="#b8b3bd",
        input_background_fill="#ffffff", input_background_fill_dark="#27252b",
        input_border_color="#b9b1a6", input_border_color_dark="#5a5661",
        input_border_color_focus="#3a4bb8", input_border_color_focus_dark="#9ca8ec",
        input_placeholder_color="#6f685f", input_placeholder_color_dark="#a09ba8",
        button_primary_background_fill="#3a4bb8", button_primary_background_fill_dark="#9ca8ec",
        button_primary_background_fill_hover="#303e98",
        button_primary_background_fill_hover_dark="#c0c8f4",
        button_primary_text_color="#ffffff", button_primary_text_color_dark="#171d40",
        button_secondary_background_fill="#ffffff", button_secondary_background_fill_dark="#27252b",
        button_secondary_background_fill_hover="#f3f0eb",
        button_secondary_background_fill_hover_dark="#343139",
        button_secondary_border_color="#cfc7bb", button_secondary_border_color_dark="#4d4954",
        block_radius="16px", input_radius="12px", container_radius="16px",
        button_large_radius="12px", button_small_radius="10px", button_large_text_weight="600",
        checkbox_background_color_selected="#3a4bb8", checkbox_border_color="#8d857a",
        checkbox_border_color_dark="#97929e", checkbox_background_color_dark="#27252b",
        checkbox_background_color_selected_dark="#7686e0",
        checkbox_label_background_fill="#ffffff", checkbox_label_background_fill_dark="#27252b",
        checkbox_label_background_fill_selected="#eef0fc",
        checkbox_label_background_fill_selected_dark="#2c3152",
        checkbox_label_border_color="#d9d2c7", checkbox_label_border_color_selected="#3a4bb8",
        checkbox_label_border_color_selected_dark="#9ca8ec",
        checkbox_label_text_color_selected="#232126",
        checkbox_label_text_color_selected_dark="#efedf2",
        color_accent="#3a4bb8", color_accent_soft="#eef0fc", color_accent_soft_dark="#2c3152",
        slider_color="#3a4bb8", slider_color_dark="#9ca8ec", loader_color="#3a4bb8",
    )  # fmt: skip


def look() -> dict[str, Any]:
    """What `gr.mount_gradio_app` needs besides the blocks: theme, styles, script and languages."""
    script = (FOLDER / "page.js").read_text("utf-8")
    return {
        "theme": theme(),
        "css_paths": [FOLDER / "style.css"],
        "head": f"<script>{script}</script>",
        "i18n": translations(),
    }
