//! Who may do what: tokens stored hashed, compared in constant time, scoped by right and project.

use std::sync::{Arc, PoisonError, RwLock};

use subtle::ConstantTimeEq;

use crate::model::ids::Project;

/// What a token allows; each right includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Read,
    Write,
    Admin,
}

/// One token: the BLAKE3 hash of its secret, never the secret.
#[derive(Clone, Debug)]
pub struct Token {
    pub hash: [u8; 32],
    pub scope: Scope,
    /// The only project it is good for; `None` for all.
    pub project: Option<Project>,
}

/// The tokens a daemon accepts; all clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct Tokens(Arc<RwLock<Vec<Token>>>);

/// Why a request is refused before it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No token, or none that is known.
    Unauthenticated,
    /// The token is known and does not allow this.
    Forbidden,
}

impl Token {
    pub fn new(secret: &str, scope: Scope, project: Option<Project>) -> Self {
        Token { hash: *blake3::hash(secret.as_bytes()).as_bytes(), scope, project }
    }
}

impl Tokens {
    pub fn new(tokens: Vec<Token>) -> Self {
        Tokens(Arc::new(RwLock::new(tokens)))
    }

    /// Accepts these from now on, and no others.
    pub fn replace(&self, tokens: Vec<Token>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = tokens;
    }

    /// Checks an `Authorization` header against the right that a request needs; `project` is `None` for node-wide ones.
    pub fn check(&self, header: Option<&str>, needs: Scope, project: Option<&Project>) -> Result<(), Refusal> {
        let token = self.find(header)?;
        let in_project = token.project.is_none() || token.project.as_ref() == project;
        if token.scope >= needs && in_project { Ok(()) } else { Err(Refusal::Forbidden) }
    }

    /// The token an `Authorization` header carries.
    pub fn find(&self, header: Option<&str>) -> Result<Token, Refusal> {
        let (scheme, secret) = header.and_then(|text| text.split_once(' ')).ok_or(Refusal::Unauthenticated)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::Unauthenticated);
        }
        let hash = blake3::hash(secret.trim().as_bytes());
        let mut found = None;
        // Every token is compared, so that the time taken does not say which one came near.
        for token in self.0.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if bool::from(token.hash.ct_eq(hash.as_bytes())) {
                found = Some(token.clone());
            }
        }
        found.ok_or(Refusal::Unauthenticated)
    }
}

#[cfg(test)]
mod tests {
    use super::{Project, Refusal, Scope, Token, Tokens};

    #[test]
    fn tokens_allow_their_scope_in_their_project_only() {
        let mine = Project::new("acme", "search").unwrap();
        let other = Project::new("acme", "other").unwrap();
        let tokens = Tokens::new(vec![Token::new("s3cret", Scope::Write, Some(mine.clone()))]);
        assert_eq!(tokens.check(Some("Bearer s3cret"), Scope::Read, Some(&mine)), Ok(()));
        assert_eq!(tokens.check(Some("Bearer s3cret"), Scope::Admin, Some(&mine)), Err(Refusal::Forbidden));
        assert_eq!(tokens.check(Some("Bearer s3cret"), Scope::Read, Some(&other)), Err(Refusal::Forbidden));
        assert_eq!(tokens.check(Some("Bearer s3cret"), Scope::Read, None), Err(Refusal::Forbidden));
        assert_eq!(tokens.check(Some("Bearer wrong"), Scope::Read, Some(&mine)), Err(Refusal::Unauthenticated));
        assert_eq!(tokens.check(None, Scope::Read, Some(&mine)), Err(Refusal::Unauthenticated));
        let same = tokens.clone();
        same.replace(vec![Token::new("newer", Scope::Read, None)]);
        assert_eq!(tokens.check(Some("Bearer s3cret"), Scope::Read, Some(&mine)), Err(Refusal::Unauthenticated));
        assert_eq!(tokens.check(Some("Bearer newer"), Scope::Read, Some(&other)), Ok(()));
    }
}
