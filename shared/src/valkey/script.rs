//! Every script, its parts and its digest; how one is called.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Value};

use super::error::{NO_SCRIPT, ShardError};
use super::link::Links;

/// A script that is known to servers by its digest.
pub(super) struct Script {
    name: &'static str,
    source: &'static str,
    digest: LazyLock<String>,
}

macro_rules! scripts {
    ($($(#[$meta:meta])* $name:ident = $file:literal from [$($part:literal),*];)*) => {
        $(
            $(#[$meta])*
            pub(super) static $name: Script = {
                const SOURCE: &str =
                    concat!($(include_str!(concat!("scripts/", $part, ".lua")), "\n",)* include_str!(concat!("scripts/", $file, ".lua")));
                Script {
                    name: $file,
                    source: SOURCE,
                    digest: LazyLock::new(|| redis::Script::new(SOURCE).get_hash().to_owned()),
                }
            };
        )*

        #[cfg(test)]
        static ALL: &[&Script] = &[$(&$name),*];
    };
}

scripts! {
    LEASE = "lease" from ["version", "entry", "lock"];
    EXTEND = "extend" from ["lock"];
    FILL = "fill" from ["version", "entry", "lock"];
    RELEASE = "release" from ["lock"];
    INVALIDATE_SET = "invalidate_set" from ["lock"];
    INVALIDATE_LOOP = "invalidate_loop" from ["version", "entry", "lock", "invalidate"];
    REFRESH = "refresh" from ["version", "entry", "lock", "invalidate"];
    #[cfg_attr(not(feature = "cluster"), allow(dead_code))]
    VOID = "void" from ["lock"];
    #[cfg_attr(not(feature = "cluster"), allow(dead_code))]
    DROP = "drop" from ["version", "entry"];
}

impl Script {
    /// What it is called in errors.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// Makes the command that brings it along.
    #[cfg(feature = "cluster")]
    pub(super) fn load(&self) -> Cmd {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(self.source);
        command
    }

    /// Makes a call of it; `rest` adds the number of keys, the keys and the arguments.
    pub(super) fn call(&self, rest: impl FnOnce(&mut Cmd)) -> Cmd {
        let mut command = Cmd::with_capacity(12, 512);
        command.arg("EVALSHA").arg(self.digest.as_str());
        rest(&mut command);
        command
    }
}

impl Links {
    /// Calls a script, and brings it along where the server does not know it.
    pub(super) async fn run(&self, script: &Script, rest: impl Fn(&mut Cmd)) -> Result<Value, ShardError> {
        let answer = self.send(&script.call(&rest)).await?;
        let Value::ServerError(error) = &answer else { return Ok(answer) };
        if error.code() != NO_SCRIPT {
            return Err(self.rejected(error));
        }
        let mut whole = Cmd::new();
        whole.arg("EVAL").arg(script.source);
        rest(&mut whole);
        self.ask(&whole).await
    }

    /// Calls a script many times in one pipeline; the answers come in the order of the calls.
    pub(super) async fn run_all(&self, script: &Script, calls: Vec<Cmd>) -> Result<Vec<Value>, ShardError> {
        let len = calls.len();
        let mut pipeline = Pipeline::with_capacity(len);
        for call in calls {
            pipeline.add_command(call);
        }
        let answers = self.send_all(&pipeline, len).await?;
        let unknown = |answer: &Value| matches!(answer, Value::ServerError(error) if error.code() == NO_SCRIPT);
        let answers = if answers.iter().any(unknown) {
            // Calls that were carried out before the script was lost are carried out again, which does no harm.
            self.ask(redis::cmd("SCRIPT").arg("LOAD").arg(script.source)).await?;
            self.send_all(&pipeline, len).await?
        } else {
            answers
        };
        for answer in &answers {
            if let Value::ServerError(error) = answer {
                return Err(self.rejected(error));
            }
        }
        Ok(answers)
    }

    /// Sends one command; a server's error is an error.
    pub(super) async fn ask(&self, command: &Cmd) -> Result<Value, ShardError> {
        match self.send(command).await? {
            Value::ServerError(error) => Err(self.rejected(&error)),
            answer => Ok(answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_script_has_a_digest_of_its_own() {
        let digests: std::collections::HashSet<_> = ALL.iter().map(|script| script.digest.as_str()).collect();
        assert_eq!(digests.len(), ALL.len());
        assert!(digests.iter().all(|digest| digest.len() == 40));
    }
}
