"""One file a revision, each with the SQL it runs; a revision that was released is never edited."""
