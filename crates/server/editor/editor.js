// The SQL editor of the console: the parts of CodeMirror that it needs, as one file (`script/vendor` makes
// `assets/editor.js` of it). It knows nothing of the page: `database.js` gives it a place and listens to it.
//
// CodeMirror brings its style along and would write it into a <style> element, which the console's policy
// (`style-src 'self'`) refuses. A sheet that script makes is the same, and no policy has to allow it.

import { EditorState, Compartment, StateEffect, StateField, Prec } from "@codemirror/state";
import {
  Decoration, EditorView, highlightActiveLine, highlightActiveLineGutter, highlightSpecialChars, keymap, lineNumbers,
  placeholder,
} from "@codemirror/view";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { HighlightStyle, bracketMatching, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { acceptCompletion, autocompletion, closeBrackets, closeBracketsKeymap, completionKeymap } from "@codemirror/autocomplete";
import { PostgreSQL, sql } from "@codemirror/lang-sql";
import { tags } from "@lezer/highlight";
import { StyleModule } from "style-mod";

const sheet = new CSSStyleSheet();
StyleModule.mount = (root, modules) => {
  sheet.replaceSync([modules].flat().map((module) => module.getRules()).join("\n"));
  if (!root.adoptedStyleSheets.includes(sheet)) root.adoptedStyleSheets = [...root.adoptedStyleSheets, sheet];
};

const colours = HighlightStyle.define([
  { tag: [tags.keyword, tags.operatorKeyword, tags.modifier], color: "var(--accent)", fontWeight: "600" },
  { tag: [tags.string, tags.special(tags.string)], color: "var(--busy)" },
  { tag: [tags.number, tags.bool, tags.null, tags.typeName], color: "var(--asleep)" },
  { tag: [tags.lineComment, tags.blockComment], color: "var(--soft)", fontStyle: "italic" },
]);

const look = EditorView.theme({
  "&": { color: "var(--ink)", backgroundColor: "var(--card)", fontSize: "15px", border: "1px solid var(--soft)", borderRadius: "6px", overflow: "hidden" },
  "&.cm-focused": { outline: "3px solid var(--accent)", outlineOffset: "1px" },
  ".cm-scroller": { fontFamily: "ui-monospace, 'SF Mono', Menlo, Consolas, 'Liberation Mono', monospace", lineHeight: "1.5", maxHeight: "40vh", overflow: "auto" },
  ".cm-content": { caretColor: "var(--ink)", padding: "8px 0" },
  ".cm-content, .cm-gutter": { minHeight: "9rem" },
  ".cm-gutters": { backgroundColor: "var(--code)", color: "var(--soft)", border: "0" },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "transparent" },
  "&.cm-focused .cm-activeLine, &.cm-focused .cm-activeLineGutter": { backgroundColor: "var(--accent-soft)" },
  ".cm-content ::selection": { backgroundColor: "var(--accent)", color: "var(--accent-ink)" },
  "&.cm-focused .cm-matchingBracket, .cm-matchingBracket": { backgroundColor: "transparent", outline: "1px solid var(--accent)" },
  "&.cm-focused .cm-nonmatchingBracket, .cm-nonmatchingBracket": { backgroundColor: "transparent", outline: "1px solid var(--bad)" },
  ".cm-placeholder": { color: "var(--soft)" },
  ".cm-tooltip": { color: "var(--ink)", backgroundColor: "var(--card)", border: "1px solid var(--soft)", borderRadius: "6px" },
  ".cm-tooltip-autocomplete ul li[aria-selected]": { backgroundColor: "var(--accent)", color: "var(--accent-ink)" },
  ".cm-tooltip-autocomplete .cm-completionMatchedText": { textDecoration: "underline" },
  ".cm-wrong": { backgroundColor: "var(--bad-soft)", textDecoration: "underline wavy var(--bad)", textUnderlineOffset: "3px" },
});

// The place of an error, until the text is changed.
const mark = StateEffect.define();
const marked = StateField.define({
  create: () => Decoration.none,
  update(marks, change) {
    if (change.docChanged) marks = Decoration.none;
    for (const effect of change.effects) {
      if (!effect.is(mark)) continue;
      const [from, to] = effect.value || [0, 0];
      marks = from < to ? Decoration.set([Decoration.mark({ class: "cm-wrong" }).range(from, to)]) : Decoration.none;
    }
    return marks;
  },
  provide: (field) => EditorView.decorations.from(field),
});

/// Opens the editor in an element. `on.run` and `on.change` are called without arguments.
export function open(host, { text, label, nothing, on }) {
  const language = new Compartment();
  const spoken = (schema) => sql({ dialect: PostgreSQL, schema, defaultSchema: "public", upperCaseKeywords: false });
  const view = new EditorView({
    parent: host,
    state: EditorState.create({
      doc: text,
      extensions: [
        Prec.highest(keymap.of([{ key: "Mod-Enter", run: () => { on.run(); return true; } }])),
        lineNumbers(), highlightActiveLine(), highlightActiveLineGutter(), highlightSpecialChars(), history(),
        indentOnInput(), bracketMatching(), closeBrackets(), autocompletion(), marked, look,
        syntaxHighlighting(colours), placeholder(nothing), EditorView.lineWrapping,
        EditorView.contentAttributes.of({ "aria-label": label, spellcheck: "false", autocapitalize: "off" }),
        EditorView.updateListener.of((change) => { if (change.docChanged || change.selectionSet) on.change(); }),
        language.of(spoken({})),
        keymap.of([
          { key: "Tab", run: acceptCompletion }, ...closeBracketsKeymap, ...defaultKeymap, ...historyKeymap,
          ...completionKeymap, indentWithTab,
        ]),
      ],
    }),
  });
  const chosen = () => view.state.selection.main;
  return {
    /// The whole text.
    text: () => view.state.doc.toString(),
    /// The part that is chosen, and where it begins; nothing where none is.
    chosen: () => (chosen().empty ? null : { from: chosen().from, text: view.state.sliceDoc(chosen().from, chosen().to) }),
    focus: () => view.focus(),
    /// Another text in the place of all of it; it can be undone.
    replace(text) {
      view.dispatch({ changes: { from: 0, to: view.state.doc.length, insert: text }, selection: { anchor: 0 }, scrollIntoView: true });
    },
    /// A text at the cursor.
    insert(text) {
      view.dispatch(view.state.replaceSelection(text), { scrollIntoView: true });
    },
    /// What there is to be completed: `{schema: {table: [column]}}`.
    complete: (schema) => view.dispatch({ effects: language.reconfigure(spoken(schema)) }),
    /// Shows where an error is, from an offset to the end of the word there; `null` takes it away. Says the line and
    /// the column.
    mark(offset) {
      if (offset === null) { view.dispatch({ effects: mark.of(null) }); return null; }
      const end = view.state.doc.length;
      let from = Math.min(offset, end);
      const word = view.state.wordAt(from);
      const to = Math.max(word ? word.to : 0, Math.min(from + 1, end));
      if (from === to && from > 0) from -= 1;
      view.dispatch({ effects: mark.of([from, to]) });
      const line = view.state.doc.lineAt(from);
      return { line: line.number, column: from - line.from + 1 };
    },
    /// Puts the cursor at an offset.
    go(offset) {
      view.dispatch({ selection: { anchor: Math.min(offset, view.state.doc.length) }, scrollIntoView: true });
      view.focus();
    },
  };
}
