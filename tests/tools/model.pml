/* model.pml: the promise's first sentence, for spin to check exhaustively (make check-model).
 *
 *     An answered request is never undone; an unanswered one always is.
 *
 * One request and whatever may happen to it: the child that makes things and answers; the server
 * that watches, kills, settles, and is started again when it is dead; its janitor; the client and
 * the network; a service elsewhere, which is given an order and makes a thing when it gets round to
 * it; and a killer, who ends any of them but the service at any point, several times. A step is what
 * one system call does to what outlives a process: the things, the ledger, the connection.
 *
 * When nothing can happen any more the judge looks: nobody is left, the ledger is gone, and the
 * things are all there, the service's too, if the request was answered, and all gone if it was not.
 * The one exception is the known window: all who hold the connection die while the `sent` mark
 * stands and the acknowledgement has not come. Then the things stay.
 *
 * Time is not modelled. That a second look is due stands for: the order is no longer on its way.
 *
 * Each name below, given with -D, breaks one thing, and spin must find out (model.sh):
 *     CREATE_FIRST          a thing is made before it is recorded
 *     COMMIT_FIRST          the ledger is dropped before the answer is delivered
 *     NO_RECOVERY           a new server leaves the dead one's ledgers alone
 *     MARK_STAYS            the `sent` mark is not struck out when the answer is refuted
 *     TRUST_SIOCOUTQ        an empty send queue is taken for an acknowledgement
 *     SIGTERM_IN_DELIVERY   SIGTERM is not blocked during delivery
 *     SETTLE_THE_LIVING     a janitor starts while the child is alive
 *     RECOVER_THE_LIVING    recovery does not end the dead server's child first
 *     ASK_ONCE              the janitor that follows a killed one no longer asks the connection
 *     UNDO_BEFORE_CUT       the connection of a refuted answer is reset only after the undo
 *     LOOK_THEN_CUT         an acknowledgement may come between the look and the reset
 *     NO_SECOND_LOOK        what the service makes after the undo is not looked for again
 *     SECOND_LOOK_AT_ONCE   it is looked for while the order is still on its way
 *     STRIKE_THEN_AGAIN     the command is struck out before its second look is recorded
 *     NO_WINDOW             the exception is not made
 */

#define THINGS 3 /* thing 0 is the scratch directory, which goes in any case */

mtype = { absent, live, struck };

/* ---- What outlives the processes ---------------------------------------------------------- */

bool thing[THINGS];
bool ledger;              /* the file is there, and in it: */
mtype record[THINGS] = absent;
mtype sent = absent;      /* the mark */
mtype command = absent;   /* the command that undoes what the service makes */
mtype second = absent;    /* its second look */

bool order;               /* on its way to the service */
bool remote;              /* what the service makes */

/* ---- The connection, as this machine's kernel holds it ------------------------------------ */

bool written;             /* the byte that completes the answer was handed to the kernel */
bool acked;               /* its acknowledgement has reached this machine */
bool reset;               /* the client's RST has */
bool cut;                 /* reset by this side, or because nobody holds it any more */

/* ---- The processes ------------------------------------------------------------------------ */

bool server = true;
bool accepted = true;     /* this server holds the connection; one that is started anew does not */
bool child, forked;
bool clean_exit;          /* the child's status was 0 or 1: its ledger is settled */
bool term, delivering;    /* SIGTERM is pending for the child; it is blocked */
bool janitor, janitor_killed;
bool settled;             /* the server knows that nothing is left */

/* ---- What only the judge sees ------------------------------------------------------------- */

bool good;                /* the route ended well: a status below 400 */
bool window;              /* the known one was met */

/* Somebody has died. When nobody holds the connection, the kernel resets it (SO_LINGER). (Here
 * and below, what nobody looks at any more is set back, which makes the model smaller.) */
inline after_death()
{
	if
	:: !child -> term = false; delivering = false
	:: else
	fi;
	if
	:: !child && !(server && accepted) ->
		cut = true;
		window = window || (ledger && sent == live && !acked)
	:: else
	fi
}

/* ---- The ledger's reader, for the child, the janitor and recovery ------------------------- */

#define IS_LIVE(n) (ledger && record[n] == live)

#ifdef SECOND_LOOK_AT_ONCE
#define DUE true
#else
#define DUE (!order)
#endif
#define IS_DUE (ledger && second == live && DUE)

inline undo_remote()
{
	if
	:: d_step { ledger && command == live -> remote = false };
#if defined(NO_SECOND_LOOK)
		command = struck
#elif defined(STRIKE_THEN_AGAIN)
		command = struck;
		second = live
#else
		second = live;
		command = struck
#endif
	:: !ledger || command != live
	fi;
	if
	:: d_step { IS_DUE -> remote = false }; second = struck
	:: !IS_DUE
	fi
}

inline undo(i)
{
	undo_remote();
	i = THINGS;
	do
	:: d_step { i > 0 && IS_LIVE(i - 1) -> thing[i - 1] = false };
		d_step { record[i - 1] = struck; i-- }
	:: d_step { i > 0 && !IS_LIVE(i - 1) -> i-- }
	:: i == 0 -> break
	od;
	if
	:: d_step { second != live -> ledger = false }
	:: second == live /* it waits for its second look */
	fi
}

inline keep()
{
	if
	:: d_step { IS_LIVE(0) -> thing[0] = false }; record[0] = struck; ledger = false
	:: d_step { !IS_LIVE(0) -> ledger = false }
	fi
}

/* Has the answer arrived? It is waited for as long as may be; who gives up resets the connection,
 * so that it cannot arrive any more. */
inline ask(delivered)
{
	if
#ifdef TRUST_SIOCOUTQ
	:: !written || acked -> delivered = true
#else
	:: acked -> delivered = true
#endif
#if defined(UNDO_BEFORE_CUT)
	:: !acked -> delivered = false
#elif defined(LOOK_THEN_CUT)
	:: !acked -> delivered = false; cut = true
#else
	:: d_step { !acked -> delivered = false; cut = true }
#endif
	fi
}

inline keep_or_undo(i, delivered)
{
	if
	:: delivered -> keep()
	:: else ->
#ifndef MARK_STAYS
		if
		:: d_step { sent == live -> sent = struck }
		:: sent != live
		fi;
#endif
		undo(i);
#ifdef UNDO_BEFORE_CUT
		cut = true
#endif
	fi
}

/* ---- The child ---------------------------------------------------------------------------- */

inline make_things(i)
{
	do
	:: i < THINGS ->
#ifdef CREATE_FIRST
		thing[i] = true;
		d_step { ledger = true; record[i] = live; i++ }
#else
		d_step { ledger = true; record[i] = live };
		d_step { thing[i] = true; i++ }
#endif
	:: i == THINGS -> break
	od;
	command = live;
	order = true
}

inline deliver(delivered)
{
#ifdef COMMIT_FIRST
	keep();
#else
	sent = live;
#endif
	if
	:: d_step { !reset && !cut -> written = true }
	:: reset || cut /* the write fails */
	fi;
	ask(delivered)
}

inline leave()
{
	d_step { clean_exit = !ledger; child = false; after_death() }
}

active proctype the_child()
{
	byte i;
	bool delivered;

end_not_forked:
	forked;
	{
		{
			make_things(i);
#ifndef SIGTERM_IN_DELIVERY
			delivering = true;
#endif
			if
			:: good = true -> deliver(delivered); keep_or_undo(i, delivered)
			:: undo(i) /* and then an answer of 400 or above */
			fi;
			leave()
		} unless {
			child && term && !delivering; /* the signal handler */
			cut = true;
			undo(i);
			leave()
		}
	} unless {
		!child
	};
	d_step { i = 0; delivered = false }
}

/* ---- The janitor and recovery ------------------------------------------------------------- */

inline settle(i, delivered, can_ask)
{
	if
	:: sent == live && can_ask -> ask(delivered)
	:: sent == live && !can_ask -> delivered = true
	:: sent != live -> delivered = false
	fi;
	keep_or_undo(i, delivered)
}

active proctype the_janitor()
{
	byte i;
	bool delivered, asked;

end_idle:
	{
end_idle_again:
		do
		:: janitor ->
#ifdef ASK_ONCE
			if
			:: asked -> settle(i, delivered, false)
			:: else -> asked = true; settle(i, delivered, true)
			fi;
#else
			settle(i, delivered, true);
#endif
			d_step { janitor = false; settled = !ledger; delivered = false }
		od
	} unless {
		janitor_killed
	};
	d_step { janitor_killed = false; i = 0; delivered = false };
	goto end_idle
}

/* ---- The server ---------------------------------------------------------------------------- */

inline end_child()
{
	d_step { child = false; after_death() }
}

inline recover(i, delivered)
{
#ifndef NO_RECOVERY
#ifndef RECOVER_THE_LIVING
	if
	:: child -> end_child()
	:: else
	fi;
#endif
	if
	:: ledger -> settle(i, delivered, false); delivered = false
	:: else
	fi
#else
	skip
#endif
}

active proctype the_server()
{
	byte i;
	bool delivered;

again:
	{
		if
		:: !accepted -> recover(i, delivered)
		:: else
		fi;
end_idle:
		do
		:: accepted && !forked -> d_step { forked = true; child = true }
			:: child && accepted && !term -> term = true /* a hangup, a time limit, a drain */
		:: child && term -> end_child() /* its grace is over */
#ifdef SETTLE_THE_LIVING
		:: child && term && !settled && !janitor -> janitor = true
#endif
		/* What recovery has left to wait for its second look. */
		:: !accepted && !child && ledger && !janitor && (second == struck || IS_DUE) -> janitor = true
		:: accepted && forked && !child && !settled && !janitor && (second != live || DUE) ->
			if
			:: clean_exit -> settled = true
			:: else -> janitor = true
			fi
		od
	} unless {
		!server
	};
	d_step { server = true; accepted = false; i = 0; delivered = false }; /* it is started again */
	goto again
}

/* ---- The client, the network, and the killer ----------------------------------------------- */

/* A FIN needs no step of its own: the server may stop the child at any time, and what a client
 * that has closed is sent, it answers with RST. */
active proctype the_client()
{
	if
	:: d_step { !reset && !cut -> reset = true }
	:: true /* it stays, or goes without a word */
	fi
}

active proctype the_network()
{
end_quiet:
	d_step { written && !reset && !cut -> acked = true }
}

/* It is somewhere else, and does not die: an order that it has got is carried out once. */
active proctype the_service()
{
end_without_an_order:
	d_step { order -> remote = true; order = false }
}

inline kill_server()
{
	server = false;
	term = term || child;                       /* PR_SET_PDEATHSIG */
	janitor_killed = janitor_killed || janitor; /* likewise */
	janitor = false
}

/* As often as it likes: but not for ever, or nobody could promise anything. */
active proctype the_killer()
{
progress:
	do
	:: child -> d_step { child = false; after_death() }
	:: server -> d_step { kill_server(); after_death() }
	:: server && child -> d_step { child = false; kill_server(); after_death() }
	:: janitor -> d_step { janitor = false; janitor_killed = true }
	:: break
	od
}

/* ---- The judge ----------------------------------------------------------------------------- */

active proctype the_judge()
{
	timeout;
	assert(!child && !janitor);
	assert(!ledger);
	assert(!thing[0]);
	assert(thing[1] == thing[2] && thing[1] == remote);
	if
	:: good && acked -> assert(thing[1])
#ifdef NO_WINDOW
	:: else -> assert(!thing[1])
#else
	:: else -> assert(!thing[1] || window)
#endif
	fi
}
