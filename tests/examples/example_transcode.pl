#!/usr/bin/env perl
# A transcoder: a worker process, as ffmpeg would be, turns the request's body into a file, while the
# answer tells how far it is. The worker is not waited for by anybody but its parent: it must not
# outlive a caller who has gone. Wants: VIDEOS, a directory, by --pass-env or env=.
use strict;
use warnings;

$| = 1;
my $file = "$ENV{VIDEOS}/$ENV{REQUEST_ID}.out";
open(my $ledger, '>>&=', $ENV{UNDO_FD}) or die "the ledger: $!\n";
syswrite($ledger, "unlink $file\n") or die "the ledger: $!\n";    # before it is made

pipe(my $progress, my $tell) or die "pipe: $!\n";
my $worker = fork() // die "fork: $!\n";
if ($worker == 0) {
    close($progress);
    $tell->autoflush(1);
    open(my $out, '>', $file) or die "$file: $!\n";
    while (read(STDIN, my $frame, 1024)) {
        print {$out} scalar reverse $frame;
        print {$tell} "frame\n";
        select(undef, undef, undef, 0.05);
    }
    close($out) or die "$file: $!\n";
    exit 0;
}
close($tell);
print "Content-Type: text/plain\n\n";
while (<$progress>) {
    print;
}
waitpid($worker, 0);
exit 1 if $? != 0;
print "done\n";
