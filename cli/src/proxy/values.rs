use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use postern_model::Secret;

use super::table::{Kind, Setting, TABLE, setting};
use crate::golang;

/// The environment as a value, so that parsing is a function of its arguments.
pub(crate) type Environment = BTreeMap<String, String>;

/// The flags of the table that were given, as text, by name.
#[derive(Clone, Default)]
pub(crate) struct Given(BTreeMap<&'static str, String>);

impl clap::FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let text = |flag| matches.get_one::<String>(flag).map(|text| (flag, text.clone()));
        Ok(Self(flags().filter_map(|setting| text(setting.flag)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl clap::Args for Given {
    fn augment_args(command: Command) -> Command {
        command.args(flags().map(argument))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

fn flags() -> impl Iterator<Item = &'static Setting> {
    TABLE.iter().filter(|setting| !setting.flag.is_empty())
}

fn argument(setting: &'static Setting) -> Arg {
    let default = if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
    let argument = Arg::new(setting.flag)
        .long(setting.flag)
        .value_name(setting.placeholder)
        .help(format!("{} [env: {}]{default}", setting.help, setting.variable))
        // The last one counts, as in Go.
        .action(ArgAction::Set)
        .overrides_with(setting.flag);
    match setting.kind {
        Kind::Bool => argument.num_args(0..=1).require_equals(true).default_missing_value("true"),
        Kind::Text | Kind::Secret | Kind::Number(_) | Kind::StrictNumber | Kind::Duration => argument,
    }
}

/// Every setting of the table with the value that is in force: flag before variable before default.
pub(crate) struct Values {
    values: BTreeMap<&'static str, InForce>,
    /// What was not understood in the environment, one sentence each.
    pub(crate) warnings: Vec<String>,
    /// What was not understood and ends the start.
    pub(crate) mistakes: Vec<String>,
}

struct InForce {
    value: Value,
    /// Somebody asked for it, be it for the default.
    chosen: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Text(String),
    Secret(Secret),
    Bool(bool),
    Number(u32),
    Duration(Duration),
}

impl Values {
    /// Reads all rows. A flag that cannot be understood is a mistake; a variable that cannot is a warning, and the
    /// default stands, except for the two counts that NetBird insists on.
    pub(crate) fn read(given: &Given, environment: &Environment) -> Self {
        let mut all = Self { values: BTreeMap::new(), warnings: Vec::new(), mistakes: Vec::new() };
        for setting in TABLE {
            let chosen = all.chosen(setting, given.0.get(setting.flag), environment.get(setting.variable));
            let in_force = InForce { chosen: chosen.is_some(), value: chosen.unwrap_or_else(|| default(setting)) };
            all.values.insert(setting.variable, in_force);
        }
        all
    }

    fn chosen(&mut self, setting: &Setting, flag: Option<&String>, variable: Option<&String>) -> Option<Value> {
        if let Some(text) = flag {
            let value = parse(setting.kind, text);
            if value.is_none() {
                self.mistakes.push(format!("--{} must be {}", setting.flag, wanted(setting.kind)));
            }
            return value;
        }
        let text = variable?;
        if text.is_empty() && setting.flag.is_empty() {
            return None;
        }
        let value = parse(setting.kind, text);
        if value.is_none() {
            let sentence = format!("{} must be {}", setting.variable, wanted(setting.kind));
            match setting.kind {
                Kind::StrictNumber => self.mistakes.push(sentence),
                Kind::Text | Kind::Secret | Kind::Bool | Kind::Number(_) | Kind::Duration => {
                    self.warnings.push(format!("{sentence}; the default is used"));
                }
            }
        }
        value
    }

    /// One sentence for each setting whose value asks for something that is not there.
    pub(crate) fn in_vain(&self) -> impl Iterator<Item = String> + '_ {
        TABLE.iter().filter_map(|setting| {
            let missing = setting.missing?;
            let InForce { value, chosen } = &self.values[setting.variable];
            // NetBird's default of a bool may ask for something too; whoever did not choose it gets the other.
            let asks = *chosen && (*value == Value::Bool(true) || *value != default(setting)) && !nothing(value);
            asks.then(|| format!("{}: {missing}", setting.name()))
        })
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        match &self.of(name).value {
            Value::Text(text) => text,
            Value::Secret(secret) => secret.expose(),
            Value::Bool(_) | Value::Number(_) | Value::Duration(_) => unreachable!("{name} is a text"),
        }
    }

    pub(crate) fn switch(&self, name: &str) -> bool {
        self.of(name).value == Value::Bool(true)
    }

    /// A number that somebody chose.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        match self.of(name) {
            InForce { value: Value::Number(number), chosen: true } => Some(*number),
            InForce { .. } => None,
        }
    }

    /// A duration that somebody chose.
    pub(crate) fn duration(&self, name: &str) -> Option<Duration> {
        match self.of(name) {
            InForce { value: Value::Duration(duration), chosen: true } => Some(*duration),
            InForce { .. } => None,
        }
    }

    fn of(&self, name: &str) -> &InForce {
        &self.values[setting(name).variable]
    }
}

fn default(setting: &Setting) -> Value {
    parse(setting.kind, setting.default).expect("the table's defaults parse")
}

/// What asks for nothing, whatever the default is.
fn nothing(value: &Value) -> bool {
    match value {
        Value::Text(text) => text.is_empty(),
        Value::Secret(secret) => secret.expose().is_empty(),
        Value::Bool(switch) => !switch,
        Value::Number(_) | Value::Duration(_) => false,
    }
}

fn parse(kind: Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Text => Some(Value::Text(text.to_owned())),
        Kind::Secret => Some(Value::Secret(Secret::from(text))),
        Kind::Bool => golang::parse_bool(text).map(Value::Bool),
        Kind::Number(most) => text.parse().ok().filter(|&number| number <= most).map(Value::Number),
        Kind::StrictNumber => text.parse().ok().map(Value::Number),
        Kind::Duration => golang::parse_duration(text).map(Value::Duration),
    }
}

fn wanted(kind: Kind) -> String {
    match kind {
        Kind::Text | Kind::Secret => "a text".into(),
        Kind::Bool => "true or false".into(),
        Kind::Number(most) => format!("a whole number from 0 to {most}"),
        Kind::StrictNumber => "a whole number".into(),
        Kind::Duration => "a duration such as 90s or 1m30s".into(),
    }
}
