/// A group somebody belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The identifier that management knows it by.
    pub id: String,
    /// The name for people; empty when management sent none.
    pub name: String,
}

/// Who is asking, as a verified credential says. Never made from an address or from what a request claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The subject of the session (NetBird: the user id, or `header-user` and its like for shared secrets).
    pub subject: String,
    /// The e-mail address or user name for `X-NetBird-User`; `None` names nobody.
    pub email: Option<String>,
    /// In the order management sent them.
    pub groups: Vec<Group>,
    /// How the credential was won: NetBird's `method` claim.
    pub method: String,
}
