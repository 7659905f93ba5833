//! The form of a template: an empty workbook with its columns, to be filled and imported.

use rust_xlsxwriter::{Format, Workbook, XlsxError};

use crate::domain::template::{SlotKind, Template};

/// How wide columns are, in characters.
const WIDTH: f64 = 22.0;
const HELP_WIDTHS: [f64; 4] = [22.0, 12.0, 70.0, 70.0];
const HELP: [&str; 4] = ["column", "required", "what it holds", "内容"];

/// Makes the form of `template`. All columns are text, so that a number typed into them keeps its + and its zero.
///
/// ```
/// use campaign_dispatch::{domain::{Category, template::{ParameterFormat, Template}}, intake::form};
/// let components = serde_json::json!([{"type": "BODY", "text": "Hello {{name}}!"}]);
/// let template = Template::parse("hi", "en", Category::Utility, ParameterFormat::Named, &components).unwrap();
/// assert!(form::form(&template).unwrap().starts_with(b"PK"));
/// ```
pub fn form(template: &Template) -> Result<Vec<u8>, XlsxError> {
    let mut book = Workbook::new();
    let (bold, text) = (Format::new().set_bold(), Format::new().set_num_format("@"));
    let columns = columns(template);
    let sheet = book.add_worksheet().set_name("Recipients")?;
    sheet.set_freeze_panes(1, 0)?;
    for (place, column) in (0..).zip(&columns) {
        sheet.set_column_format(place, &text)?.set_column_width(place, WIDTH)?;
        sheet.write_string_with_format(0, place, column.name, &bold)?;
    }
    let help = book.add_worksheet().set_name("Help")?;
    for (place, (title, width)) in (0..).zip(HELP.into_iter().zip(HELP_WIDTHS)) {
        help.set_column_width(place, width)?.write_string_with_format(0, place, title, &bold)?;
    }
    for (row, column) in (1..).zip(&columns) {
        let required = if column.is_required { "yes" } else { "no" };
        for (place, cell) in (0..).zip([column.name, required, &column.english, &column.japanese]) {
            help.write_string(row, place, cell)?;
        }
    }
    book.save_to_buffer()
}

struct Column<'a> {
    name: &'a str,
    is_required: bool,
    english: String,
    japanese: String,
}

fn columns(template: &Template) -> Vec<Column<'_>> {
    let fixed = |name, is_required, english: &str, japanese: &str| Column {
        name,
        is_required,
        english: english.to_owned(),
        japanese: japanese.to_owned(),
    };
    let mut columns = vec![
        fixed("to", true, "whom it is for, for example +819012345678", "宛先。例: +819012345678"),
        fixed("ref", false, "your own id of the recipient", "貴社の管理番号"),
        fixed("time_zone", false, "the recipient's time zone, for example Asia/Tokyo", "時間帯。例: Asia/Tokyo"),
    ];
    columns.extend(template.slots.iter().map(|slot| {
        let (english, japanese) = kind(slot.kind);
        let (for_example, tatoeba) = slot
            .example
            .as_ref()
            .map_or_else(Default::default, |example| (format!("; for example {example}"), format!("。例: {example}")));
        Column {
            name: template.short_name(slot),
            is_required: slot.required,
            english: format!("{english}, at most {} characters{for_example}", slot.max_chars),
            japanese: format!("{japanese}({}文字以内){tatoeba}", slot.max_chars),
        }
    }));
    columns
}

const fn kind(kind: SlotKind) -> (&'static str, &'static str) {
    match kind {
        SlotKind::Text => ("a line of text", "1行の文字列"),
        SlotKind::Media => {
            ("an uploaded file's id, or an https link", "アップロード済みファイルのID、またはhttpsのURL")
        }
        SlotKind::UrlSuffix => ("the end of the button's address", "ボタンのURLの末尾"),
        SlotKind::Payload => ("what comes back when the button is tapped", "ボタンを押したときに返る値"),
        SlotKind::OneTimePassword => ("a one-time password", "ワンタイムパスワード"),
        SlotKind::Coupon => ("a coupon code", "クーポンコード"),
    }
}
