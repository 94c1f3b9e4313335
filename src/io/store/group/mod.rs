//! Several masters: the engine of the group beside the store's thread.

pub(super) mod seam;
